//! Whether a message is one that HipChat takes: its JSON by the published schema, every length in UTF-16 units,
//! its HTML by html5ever's tokenizer, which reports whatever the HTML standard calls an error.

use std::cell::RefCell;
use std::sync::LazyLock;

use hipchat_notifier::adapters::hipchat::wire;
use hipchat_notifier::domain::message::RoomMessage;
use hipchat_notifier::formats::schema;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{
    BufferQueue, StartTag, Tag, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use jsonschema::paths::Location;
use jsonschema::{Keyword, Registry, ValidationError, Validator};
use serde_json::{Map, Value};
use url::Url;

/// Tags that HipChat documents for messages and that a notifier can need, and for cards.
const MESSAGE_TAGS: [&str; 7] = ["a", "b", "i", "br", "ul", "li", "pre"];
const CARD_TAGS: [&str; 3] = ["a", "b", "i"];

static NOTIFICATION: LazyLock<Validator> = LazyLock::new(|| {
    jsonschema::options()
        .with_keyword("maxLength", units_at_most)
        .build(&document("room-notification"))
        .expect("the published schema compiles")
});

/// The published schema of this name.
pub fn schema(name: &str) -> Validator {
    let mut registry = Registry::new();
    for (other, _) in schema::ALL {
        let document = document(other);
        if let Some(id) = document["$id"].as_str() {
            registry = registry.add(id, document.clone()).expect(other);
        }
    }
    let registry = registry.prepare().expect("references");
    jsonschema::options()
        .with_registry(&registry)
        .should_validate_formats(true)
        .offline()
        .build(&document(name))
        .expect(name)
}

fn document(name: &str) -> Value {
    serde_json::from_str(schema::named(name).expect(name)).expect(name)
}

/// Panics where HipChat would refuse the message by its schema.
pub fn fits(message: &RoomMessage) {
    let bytes = wire::to_bytes(message);
    let value: Value = serde_json::from_slice(&bytes).expect("the body is JSON");
    assert_eq!(value, wire::to_value(message), "what is shown is what is sent");
    // Most are valid, and to say only that is much cheaper than to collect errors.
    if !NOTIFICATION.is_valid(&value)
        && let Some(error) = NOTIFICATION.iter_errors(&value).next()
    {
        panic!("{error} at {}: {value}", error.instance_path());
    }
}

/// Panics where HipChat would refuse the message or show something else than is meant. Gives back the text that
/// people see.
pub fn message(message: &RoomMessage) -> String {
    fits(message);
    let shown = html(&message.html, &MESSAGE_TAGS);
    assert!(!shown.trim().is_empty(), "nothing to see in {}", message.html);
    no_tricks(&shown);
    message.from.iter().for_each(|from| no_tricks(from));
    if let Some(card) = &message.card {
        let collapsed = html(&card.activity_html, &CARD_TAGS);
        no_tricks(&collapsed);
        no_tricks(&card.title);
        card.description.iter().for_each(|text| no_tricks(&text.replace('\n', " ")));
        for attribute in &card.attributes {
            no_tricks(&attribute.label);
            no_tricks(&attribute.value);
            attribute.url.iter().for_each(|url| link(url));
        }
        card.url.iter().for_each(|url| link(url));
    }
    shown
}

/// Panics where `html` is not what the standard calls valid, or has what HipChat does not allow. Gives back the
/// text that people see.
pub fn html(html: &str, allowed: &[&str]) -> String {
    for (at, _) in html.match_indices('&') {
        let entity = html[at..].split_inclusive(';').next().unwrap_or_default();
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].contains(&entity);
        assert!(known, "not a whole entity: {entity:.20} in {html}");
    }
    let opts = TokenizerOpts { exact_errors: true, discard_bom: false, ..TokenizerOpts::default() };
    let tokenizer = Tokenizer::new(Tokens::default(), opts);
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(html));
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    let (mut open, mut text) = (Vec::new(), String::new());
    for token in tokenizer.sink.0.into_inner() {
        match token {
            Token::CharacterTokens(characters) => {
                assert_ne!(open.last().map(String::as_str), Some("ul"), "text between items: {html}");
                text.push_str(&characters);
            }
            Token::TagToken(tag) => {
                self::tag(&tag, allowed, &mut open, html);
                if matches!(&*tag.name, "br" | "li") {
                    text.push(' ');
                }
            }
            Token::EOFToken => {}
            other => panic!("{other:?} in {html}"),
        }
    }
    assert!(open.is_empty(), "{open:?} is left open in {html}");
    text
}

fn tag(tag: &Tag, allowed: &[&str], open: &mut Vec<String>, html: &str) {
    let name = &*tag.name;
    assert!(allowed.contains(&name), "<{name}> in {html}");
    assert!(!tag.self_closing && !tag.had_duplicate_attributes, "<{name}> in {html}");
    if tag.kind != StartTag {
        assert!(tag.attrs.is_empty());
        assert_eq!(open.pop().as_deref(), Some(name), "a tag is closed that is not open: {html}");
        return;
    }
    assert!(!open.iter().any(|outer| outer == name), "<{name}> in itself: {html}");
    assert_eq!(name == "li", open.last().is_some_and(|outer| outer == "ul"), "<{name}> in {open:?}: {html}");
    match tag.attrs.as_slice() {
        [href] if name == "a" && &*href.name.local == "href" => link(&href.value),
        [] if name != "a" => {}
        other => panic!("attributes {other:?} of <{name}> in {html}"),
    }
    if name != "br" {
        open.push(name.to_owned());
    }
}

/// Panics unless people can be sent there.
fn link(address: &str) {
    let url = Url::parse(address).unwrap_or_else(|error| panic!("a link to {address:?}: {error}"));
    let plain =
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    assert!(plain && url.has_host(), "a link to {address:?}");
}

/// Panics at characters that make a text read as another.
pub fn no_tricks(text: &str) {
    let bad = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
            || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    assert!(!text.contains(bad), "a character that hides or turns text: {text:?}");
}

/// What a tokenizer found.
#[derive(Default)]
struct Tokens(RefCell<Vec<Token>>);

impl TokenSink for Tokens {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        self.0.borrow_mut().push(token);
        TokenSinkResult::Continue
    }
}

/// `maxLength` in UTF-16 units, since nobody knows in which unit HipChat counted and these are the most.
struct UnitsAtMost(u64);

fn units_at_most<'a>(
    _: &'a Map<String, Value>,
    limit: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    Ok(Box::new(UnitsAtMost(limit.as_u64().expect("a number"))))
}

impl<'i> Keyword<'i> for UnitsAtMost {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        match self.is_valid(instance) {
            true => Ok(()),
            false => Err(ValidationError::custom(format!("longer than {}", self.0))),
        }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        instance.as_str().is_none_or(|text| text.encode_utf16().count() as u64 <= self.0)
    }
}
