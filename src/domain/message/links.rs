//! Where the things in a message can be opened: the event's own URLs, else templates.
//!
//! Only plain http and https addresses become links, whoever they came from; everything else is left out.

use std::collections::HashMap;
use std::str::FromStr;

use iri_string::spec::UriSpec;
use iri_string::template::UriTemplateString;
use iri_string::template::context::{Context, Visitor};

use super::html::escape;
use super::text;
use crate::domain::event::{Activity, Event, MonitorRun, Subject};
use crate::domain::web_address::WebAddress;

/// The longest address that is linked, in UTF-16 units after escaping. Postman's are under 300; a longer one
/// would take the room of what the message has to say.
const LONGEST: usize = 1_000;

/// An address that is short enough for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Href {
    url: WebAddress,
    /// Where something had to be.
    escaped: Option<String>,
}

impl Href {
    /// `None` for anything that is not such an address.
    pub fn parse(raw: &str) -> Option<Self> {
        let url = if raw.len() <= LONGEST { WebAddress::parse(raw)? } else { return None };
        Self::new(url)
    }

    /// `None` for one that is too long.
    fn new(url: WebAddress) -> Option<Self> {
        let escaped = Some(escape(url.as_str())).filter(|escaped| *escaped != url.as_str());
        let href = Self { url, escaped };
        (text::units(href.escaped()) <= LONGEST).then_some(href)
    }

    /// The address as it is.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The address as an attribute's value, without the quotes.
    pub(super) fn escaped(&self) -> &str {
        self.escaped.as_deref().unwrap_or(self.url.as_str())
    }
}

/// What is wrong with a link template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkTemplateError {
    #[error("links.{key}: `{template}` is not a URI template (RFC 6570): {detail}")]
    Syntax { key: String, template: String, detail: String },
    #[error("links.{key}: there is no variable `{variable}`; use one of {}", VARIABLES.join(", "))]
    UnknownVariable { key: String, variable: String },
    #[error(
        "links.{key}: `{template}` must make an address that starts with https:// or http:// and has no user name"
    )]
    NotAnAddress { key: String, template: String },
}

/// What a template can name. `…_id` is the uid without the owner's number before it: what Postman's pages of
/// monitors want. A link is made only if the event has every variable that its template names.
pub const VARIABLES: &[&str] = &[
    "monitor_uid",
    "monitor_id",
    "run_id",
    "collection_uid",
    "collection_id",
    "environment_uid",
    "environment_id",
    "model",
    "model_uid",
    "model_id",
    "workspace_id",
    "team",
];

/// Postman's own pages. The run's form (`…/<monitor uuid>?job=<job id>`) is from its users' reports; the others
/// are the addresses that Postman's "copy link" gave.
const POSTMAN: &[(&str, &str)] = &[
    ("monitor", "https://go.postman.co/monitors/{monitor_id}"),
    ("run", "https://go.postman.co/monitors/{monitor_id}?job={run_id}"),
    ("collection", "https://go.postman.co/collection/{collection_uid}"),
    ("request", "https://go.postman.co/request/{model_uid}"),
    ("environment", "https://go.postman.co/environments/{model_uid}"),
    ("workspace", "https://go.postman.co/workspace/{model_uid}"),
];

/// Templates (RFC 6570) for links that an event does not carry, by `monitor`, `run`, `collection` or the name
/// of any model of team activity.
#[derive(Debug, Clone, PartialEq)]
pub struct Links {
    templates: HashMap<String, UriTemplateString>,
}

impl Links {
    /// Postman's pages, with `templates` in place of those of the same name or beside them. An empty template
    /// switches its link off.
    pub fn new(templates: impl IntoIterator<Item = (String, String)>) -> Result<Self, LinkTemplateError> {
        let mut links = Self::postman();
        for (key, template) in templates {
            let name = key.to_lowercase();
            if template.trim().is_empty() {
                links.templates.remove(&name);
            } else {
                links.templates.insert(name, checked(key, template)?);
            }
        }
        Ok(links)
    }

    /// Postman's pages alone.
    pub fn postman() -> Self {
        let templates = POSTMAN.iter().map(|(key, template)| {
            let template = UriTemplateString::from_str(template).expect("our own templates are tested");
            ((*key).to_owned(), template)
        });
        Self { templates: templates.collect() }
    }

    /// The run's page, else the monitor's.
    pub fn run(&self, event: &Event, run: &MonitorRun) -> Option<Href> {
        let known = Known::of(event);
        own(&run.run_url)
            .or_else(|| self.expand("run", &known))
            .or_else(|| own(&run.monitor_url))
            .or_else(|| self.expand("monitor", &known))
    }

    /// The page of the collection that the event names.
    pub fn collection(&self, event: &Event) -> Option<Href> {
        let url = match &event.subject {
            Subject::Run(_) => None,
            Subject::Activity(activity) => own(&activity.collection_url),
        };
        url.or_else(|| self.expand("collection", &Known::of(event)))
    }

    /// The page of the instance that was changed, else that of its collection.
    pub fn instance(&self, event: &Event, activity: &Activity) -> Option<Href> {
        // Any text may stand where a model should, of a mebibyte even; no template is named so.
        let template = || {
            let model = Some(&activity.model).filter(|model| model.len() <= LONGEST)?;
            self.expand(&model.to_lowercase(), &Known::of(event))
        };
        own(&activity.model_url).or_else(template).or_else(|| self.collection(event))
    }

    fn expand(&self, key: &str, known: &Known<'_>) -> Option<Href> {
        let template = self.templates.get(key)?;
        if template.variables().any(|variable| known.value(variable.as_str()).is_none()) {
            return None;
        }
        Href::parse(&template.expand::<UriSpec, _>(known).ok()?.to_string())
    }
}

fn own(url: &Option<WebAddress>) -> Option<Href> {
    url.clone().and_then(Href::new)
}

fn checked(key: String, template: String) -> Result<UriTemplateString, LinkTemplateError> {
    let parsed = match UriTemplateString::from_str(template.trim()) {
        Ok(parsed) => parsed,
        Err(e) => return Err(LinkTemplateError::Syntax { key, template, detail: e.to_string() }),
    };
    if let Some(unknown) = parsed.variables().map(|v| v.as_str()).find(|v| !VARIABLES.contains(v)) {
        return Err(LinkTemplateError::UnknownVariable { variable: unknown.to_owned(), key });
    }
    // With any values an address has to come out; these stand for all.
    let expanded = parsed.expand::<UriSpec, _>(&Known::sample()).map(|expanded| expanded.to_string());
    match expanded.ok().and_then(|address| Href::parse(&address)) {
        Some(_) => Ok(parsed),
        None => Err(LinkTemplateError::NotAnAddress { key, template }),
    }
}

/// What an event says of the variables.
#[derive(Default)]
struct Known<'a> {
    monitor_uid: Option<&'a str>,
    run_id: Option<&'a str>,
    collection_uid: Option<&'a str>,
    environment_uid: Option<&'a str>,
    model: Option<&'a str>,
    model_uid: Option<&'a str>,
    workspace_id: Option<&'a str>,
    team: Option<&'a str>,
}

impl<'a> Known<'a> {
    fn of(event: &'a Event) -> Self {
        let team = event.team.as_ref().map(|team| team.as_str());
        match &event.subject {
            Subject::Run(run) => Self {
                monitor_uid: Some(&run.monitor_uid),
                run_id: run.run_id.as_deref(),
                collection_uid: run.collection_uid.as_deref(),
                environment_uid: run.environment_uid.as_deref(),
                team,
                ..Self::default()
            },
            Subject::Activity(activity) => {
                // Of an activity on a collection the instance is the collection, and so on.
                let uid_if = |model: &str| {
                    activity.model_uid.as_deref().filter(|_| activity.model.eq_ignore_ascii_case(model))
                };
                Self {
                    monitor_uid: uid_if("monitor"),
                    run_id: None,
                    collection_uid: activity.collection_uid.as_deref().or(uid_if("collection")),
                    environment_uid: uid_if("environment"),
                    model: Some(&activity.model),
                    model_uid: activity.model_uid.as_deref(),
                    workspace_id: activity.workspace_id.as_deref().or(uid_if("workspace")),
                    team,
                }
            }
        }
    }

    fn sample() -> Self {
        let some = Some("1");
        Self {
            monitor_uid: some,
            run_id: some,
            collection_uid: some,
            environment_uid: some,
            model: some,
            model_uid: some,
            workspace_id: some,
            team: some,
        }
    }

    fn value(&self, variable: &str) -> Option<&'a str> {
        match variable {
            "monitor_uid" => self.monitor_uid,
            "monitor_id" => self.monitor_uid.map(without_owner),
            "run_id" => self.run_id,
            "collection_uid" => self.collection_uid,
            "collection_id" => self.collection_uid.map(without_owner),
            "environment_uid" => self.environment_uid,
            "environment_id" => self.environment_uid.map(without_owner),
            "model" => self.model,
            "model_uid" => self.model_uid,
            "model_id" => self.model_uid.map(without_owner),
            "workspace_id" => self.workspace_id,
            "team" => self.team,
            _ => None,
        }
        .filter(|value| !value.trim().is_empty() && value.len() <= LONGEST)
    }
}

impl Context for Known<'_> {
    fn visit<V: Visitor>(&self, visitor: V) -> V::Result {
        match self.value(visitor.var_name().as_str()) {
            Some(value) => visitor.visit_string(value),
            None => visitor.visit_undefined(),
        }
    }
}

/// A uid is `<user id>-<uuid>`. A bare UUID may start with eight digits too, and stays whole.
fn without_owner(uid: &str) -> &str {
    const UUID_LEN: usize = 36;
    match uid.split_once('-') {
        Some((owner, id))
            if uid.len() != UUID_LEN
                && !owner.is_empty()
                && !id.is_empty()
                && owner.bytes().all(|b| b.is_ascii_digit()) =>
        {
            id
        }
        _ => uid,
    }
}
