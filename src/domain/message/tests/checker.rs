//! A strict reader of the HTML that HipChat allows, and of every limit on a message. Knows nothing of how
//! messages are built.

use super::super::{Card, RoomMessage};

/// Of HipChat's documented list, those without attributes to check.
const TAGS: [&str; 10] = ["b", "i", "strong", "em", "span", "ul", "li", "pre", "code", "a"];
const CARD_TAGS: [&str; 5] = ["a", "b", "i", "strong", "span"];

/// The message itself, after everything about it has been checked.
pub fn checked(message: RoomMessage) -> RoomMessage {
    check_html(&message.html, &TAGS, true).unwrap_or_else(|fault| panic!("{fault}: {}", message.html));
    within("message", &message.html, 1, 10_000);
    if let Some(from) = &message.from {
        within("from", from, 1, 64);
    }
    if let Some(card) = &message.card {
        check_card(card);
    }
    message
}

fn within(what: &str, text: &str, least: usize, most: usize) {
    let units = text.encode_utf16().count();
    assert!((least..=most).contains(&units), "{what} has {units} units: {text}");
    let bad = |c: char| (c.is_control() && c != '\n') || ('\u{202A}'..='\u{202E}').contains(&c);
    assert!(!text.contains(bad), "{what} has a character that it may not: {text:?}");
}

fn check_card(card: &Card) {
    within("card.id", &card.id, 1, 100);
    within("card.title", &card.title, 1, 500);
    within("card.activity", &card.activity_html, 1, 1_000);
    check_html(&card.activity_html, &CARD_TAGS, false).unwrap_or_else(|fault| panic!("{fault}: {card:?}"));
    if let Some(description) = &card.description {
        within("card.description", description, 1, 1_000);
    }
    assert!(card.attributes.len() <= 10);
    for attribute in &card.attributes {
        within("label", &attribute.label, 1, 50);
        within("value", &attribute.value, 1, 1_000);
    }
    let urls = card.attributes.iter().filter_map(|a| a.url.as_ref()).chain(&card.url);
    for url in urls {
        assert!(url.starts_with("https://") || url.starts_with("http://"), "{url}");
    }
}

/// Every tag known, closed and nested; attributes quoted and only `a`'s `href`; entities whole; nothing that
/// has a meaning in HTML left as it came.
pub fn check_html(html: &str, tags: &[&str], breaks: bool) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(c) = rest.chars().next() {
        match c {
            '<' => {
                let end = rest.find('>').ok_or("a tag that does not end")?;
                tag(&rest[1..end], tags, breaks, &mut open)?;
                rest = &rest[end + 1..];
            }
            '&' => rest = entity(rest)?,
            '>' | '"' | '\'' => return Err(format!("a bare {c}")),
            _ => {
                if matches!(open.last(), Some(&"ul")) {
                    return Err("text between the items of a list".to_owned());
                }
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("not closed: {open:?}")) }
}

fn tag<'a>(tag: &'a str, tags: &[&str], breaks: bool, open: &mut Vec<&'a str>) -> Result<(), String> {
    if tag == "br" && breaks {
        return Ok(());
    }
    if let Some(name) = tag.strip_prefix('/') {
        return match open.pop() {
            Some(last) if last == name => Ok(()),
            last => Err(format!("</{name}> closes {last:?}")),
        };
    }
    let name = tag.split(' ').next().unwrap_or_default();
    if !tags.contains(&name)
        || (name == "li") != (open.last() == Some(&"ul"))
        || open.contains(&"a") && name == "a"
    {
        return Err(format!("<{tag}> in {open:?}"));
    }
    let attributes = tag[name.len()..].trim_start();
    if name == "a" {
        let href = attributes.strip_prefix("href=\"").and_then(|a| a.strip_suffix('"'));
        let mut href = href.ok_or_else(|| format!("not a quoted href: {tag}"))?;
        if !(href.starts_with("https://") || href.starts_with("http://")) {
            return Err(format!("a link to {href}"));
        }
        while let Some(c) = href.chars().next() {
            match c {
                '"' | '<' | '>' | '\'' => return Err(format!("a bare {c} in {tag}")),
                '&' => href = entity(href)?,
                _ => href = &href[c.len_utf8()..],
            }
        }
    } else if !attributes.is_empty() {
        return Err(format!("attributes on <{tag}>"));
    }
    open.push(name);
    Ok(())
}

fn entity(text: &str) -> Result<&str, String> {
    let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
    let found = known.iter().find_map(|entity| text.strip_prefix(entity));
    found.ok_or_else(|| format!("not a whole entity: {}", text.chars().take(8).collect::<String>()))
}

#[test]
fn it_sees_what_is_wrong() {
    let bad = [
        "<b>x",
        "x</b>",
        "<b><i>x</b></i>",
        "a & b",
        "&am",
        "&nbsp;",
        "<script>x</script>",
        "a < b",
        "a > b",
        "\"",
        "<a href=https://x>y</a>",
        "<a href=\"javascript:x\">y</a>",
        "<a href=\"https://x?a&b\">y</a>",
        "<b onclick=\"\">x</b>",
        "<li>x</li>",
        "<ul>x</ul>",
        "<ul><b>x</b></ul>",
        "<a href=\"https://x\"><a href=\"https://x\">y</a></a>",
        "<b",
    ];
    for html in bad {
        assert!(check_html(html, &TAGS, true).is_err(), "{html}");
    }
    let good = "<b>x</b> &amp; &#39;<br><a href=\"https://x?a&amp;b\"><i>y</i></a><ul><li>z</li></ul>";
    assert_eq!(check_html(good, &TAGS, true), Ok(()));
    assert!(check_html(good, &CARD_TAGS, false).is_err());
}
