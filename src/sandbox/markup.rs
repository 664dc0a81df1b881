//! From what a room received to html that is safe to show: HipChat's allowed tags in html, everything escaped in
//! text.
//!
//! Nothing here may put a received string into html without [`escape`] or [`sanitise`].

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use ammonia::{Builder, UrlRelative};
use url::Url;

/// Tags and attributes that HipChat documented for html messages. `rel` and `target` are ours, on every link.
static MESSAGE_HTML: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    builder
        .tags(HashSet::from([
            "a", "b", "i", "strong", "em", "br", "img", "pre", "code", "ul", "ol", "li", "table", "thead",
            "tbody", "tfoot", "tr", "th", "td", "caption", "span",
        ]))
        .clean_content_tags(HashSet::from(["script", "style"]))
        .tag_attributes(HashMap::from([
            ("a", HashSet::from(["href", "data-target", "data-target-options"])),
            ("img", HashSet::from(["src", "alt", "width", "height", "align", "style"])),
            ("td", HashSet::from(["colspan", "rowspan", "valign"])),
            ("th", HashSet::from(["colspan", "rowspan", "valign"])),
            ("tr", HashSet::from(["valign"])),
            ("span", HashSet::from(["style"])),
        ]))
        .filter_style_properties(HashSet::from([
            "font-weight",
            "color",
            "text-decoration",
            "height",
            "width",
        ]))
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .url_relative(UrlRelative::Deny)
        .set_tag_attribute_value("a", "target", "_blank")
        .link_rel(Some("noopener noreferrer"));
    builder
});

/// Tags that HipChat documented for html in cards.
static CARD_HTML: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    builder
        .tags(HashSet::from(["a", "b", "i", "strong", "span"]))
        .clean_content_tags(HashSet::from(["script", "style"]))
        .tag_attributes(HashMap::from([("a", HashSet::from(["href"]))]))
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .url_relative(UrlRelative::Deny)
        .set_tag_attribute_value("a", "target", "_blank")
        .link_rel(Some("noopener noreferrer"));
    builder
});

/// An html message as HipChat would have let it through.
pub(super) fn sanitise(html: &str) -> String {
    MESSAGE_HTML.clean(html).to_string()
}

/// Html in a card as HipChat would have let it through.
pub(super) fn sanitise_card(html: &str) -> String {
    CARD_HTML.clean(html).to_string()
}

/// Text as html, good inside elements and quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A text message: lines kept, links and mentions marked, `/code` and `/quote` at the start understood.
pub(super) fn text(message: &str) -> String {
    for (command, tag) in
        [("/code ", "pre"), ("/pre ", "pre"), ("/monospace ", "pre"), ("/quote ", "blockquote")]
    {
        if let Some(rest) = message.strip_prefix(command) {
            return format!("<{tag}>{}</{tag}>", escape(rest));
        }
    }
    let lines = message.split('\n').map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("<br>")
}

fn word(word: &str) -> String {
    if let Some(link) = safe_url(word).filter(|_| word.starts_with("http")) {
        return format!(
            "<a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">{}</a>",
            escape(&link),
            escape(word)
        );
    }
    let is_mention = word.strip_prefix('@').is_some_and(|name| name.starts_with(char::is_alphanumeric));
    if is_mention {
        return format!("<span class=\"mention\">{}</span>", escape(word));
    }
    escape(word)
}

/// A URL that a person may be sent to by a click.
pub(super) fn safe_url(url: &str) -> Option<String> {
    Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_keeps_what_hipchat_allowed_and_nothing_else() {
        for (html, shown) in [
            ("<b>Build</b> <em>42</em><br>failed", "<b>Build</b> <em>42</em><br>failed"),
            ("a<script>alert(1)</script>b", "ab"),
            ("<style>*{display:none}</style>x", "x"),
            ("<img src=x onerror=alert(1)>", "<img>"),
            ("<b onclick='x()'>b</b>", "<b>b</b>"),
            ("<h1>big</h1>", "big"),
            (
                "<a href=\"javascript:alert(1)\">x</a>",
                "<a target=\"_blank\" rel=\"noopener noreferrer\">x</a>",
            ),
            (
                "<a href=\"https://a.test/?a=1&amp;b=2\">x</a>",
                "<a href=\"https://a.test/?a=1&amp;b=2\" target=\"_blank\" rel=\"noopener noreferrer\">x</a>",
            ),
            ("<span style=\"color: red; position: fixed\">x</span>", "<span style=\"color:red\">x</span>"),
            (
                "<table><tr><td colspan=2>x</td></tr></table>",
                "<table><tbody><tr><td colspan=\"2\">x</td></tr></tbody></table>",
            ),
            ("<b>open", "<b>open</b>"),
            ("1 < 2 & 3", "1 &lt; 2 &amp; 3"),
        ] {
            assert_eq!(sanitise(html), shown, "{html}");
        }
        assert_eq!(sanitise_card("<b>a</b><img src='https://a.test/i.png'><br>"), "<b>a</b>");
    }

    #[test]
    fn text_is_escaped_and_marked_up_as_the_client_did() {
        for (message, shown) in [
            ("<b>1 & 2</b>", "&lt;b&gt;1 &amp; 2&lt;/b&gt;"),
            ("one\ntwo  three", "one<br>two  three"),
            ("@all look", "<span class=\"mention\">@all</span> look"),
            ("a @ b", "a @ b"),
            (
                "see https://a.test/?q=\"x\"",
                "see <a href=\"https://a.test/?q=%22x%22\" target=\"_blank\" rel=\"noopener noreferrer\">https://a.test/?q=&quot;x&quot;</a>",
            ),
            ("javascript:alert(1)", "javascript:alert(1)"),
            ("/code a < b\n@all", "<pre>a &lt; b\n@all</pre>"),
            ("/quote so", "<blockquote>so</blockquote>"),
            ("/me waves", "/me waves"),
        ] {
            assert_eq!(text(message), shown, "{message}");
        }
    }

    #[test]
    fn only_web_addresses_can_be_clicked() {
        assert_eq!(safe_url("https://a.test/x").as_deref(), Some("https://a.test/x"));
        for url in ["javascript:alert(1)", "data:text/html,x", "//a.test", "/x", "file:///etc/passwd", ""] {
            assert_eq!(safe_url(url), None, "{url}");
        }
    }
}
