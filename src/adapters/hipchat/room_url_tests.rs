use proptest::prelude::*;

use super::*;

const TOKEN: &str = "s3cr3tTokenOfFortyCharactersForTheRoom00";

fn parse(text: &str) -> Result<RoomTarget, RoomUrlError> {
    parse_room_url(&text.replace("TOKEN", TOKEN), &Egress::default())
}

#[test]
fn good_room_urls_give_an_endpoint_a_key_and_a_token() {
    let cases = [
        (
            "https://acme.hipchat.com/v2/room/42/notification?auth_token=TOKEN",
            "42",
            "https://acme.hipchat.com/v2/room/42",
        ),
        (
            "  https://ACME.HipChat.com:443/v2/room/42/notification/?auth_token=TOKEN\n",
            "42",
            "https://acme.hipchat.com/v2/room/42",
        ),
        (
            "https://acme.hipchat.com./v2/room/42/notification?auth_token=TOKEN",
            "42",
            "https://acme.hipchat.com/v2/room/42",
        ),
        (
            "https://host.example:8443/v2/room/42/notification?auth_token=TOKEN",
            "42",
            "https://host.example:8443/v2/room/42",
        ),
        (
            "https://host.example/hipchat/v2/room/42/notification?auth_token=TOKEN",
            "42",
            "https://host.example/hipchat/v2/room/42",
        ),
        (
            "https://h.example/v2/room/Ops%20Room/notification?auth_token=TOKEN",
            "Ops%20Room",
            "https://h.example/v2/room/Ops%20Room",
        ),
        (
            "https://h.example/v2/room/Ops Room/notification?auth_token=TOKEN",
            "Ops%20Room",
            "https://h.example/v2/room/Ops%20Room",
        ),
        (
            "https://h.example/v2/room/Ops%20%52oom/notification?auth_token=TOKEN",
            "Ops%20%52oom",
            "https://h.example/v2/room/Ops%20Room",
        ),
        (
            "https://h.example/v2/room/a+b/notification?auth_token=TOKEN",
            "a+b",
            "https://h.example/v2/room/a%2Bb",
        ),
        (
            "https://h.example/v2/room/a%2Bb/notification?auth_token=TOKEN",
            "a%2Bb",
            "https://h.example/v2/room/a%2Bb",
        ),
        (
            "https://h.example/v2/room/C%23/notification?auth_token=TOKEN",
            "C%23",
            "https://h.example/v2/room/C%23",
        ),
        (
            "https://h.example/v2/room/a%2Fb%3f/notification?auth_token=TOKEN",
            "a%2Fb%3f",
            "https://h.example/v2/room/a%2Fb%3F",
        ),
        (
            "https://h.example/v2/room/Größe/notification?auth_token=TOKEN",
            "Gr%C3%B6%C3%9Fe",
            "https://h.example/v2/room/Gr%C3%B6%C3%9Fe",
        ),
        (
            "https://h.example/v2/room/notification/notification?auth_token=TOKEN",
            "notification",
            "https://h.example/v2/room/notification",
        ),
    ];
    for (text, room, key) in cases {
        let target = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(target.room.as_str(), key, "{text}");
        assert!(
            target.endpoint.path().ends_with(&format!("/v2/room/{room}/notification")),
            "{}",
            target.endpoint
        );
        assert_eq!(target.endpoint.query(), None);
        assert_eq!(target.token.expose_secret(), TOKEN);
        assert!(!format!("{target:?}").contains(TOKEN));
    }
}

#[test]
fn each_fault_of_a_room_url_has_its_own_error_without_the_secret() {
    use RoomUrlError as E;
    let path = |hint| E::WrongPath { hint };
    let cases = [
        ("", E::Empty),
        ("  ", E::Empty),
        ("https://h.example/v2/room/4\n2/notification?auth_token=TOKEN", E::ControlCharacter),
        ("https://h.example/v2/room/4%0A2/notification?auth_token=TOKEN", E::ControlCharacter),
        ("h.example/v2/room/42/notification?auth_token=TOKEN", E::MissingScheme),
        ("h.example:8080/v2/room/42/notification?auth_token=TOKEN", E::MissingScheme),
        ("//h.example/v2/room/42/notification?auth_token=TOKEN", E::MissingScheme),
        ("ftp://h.example/v2/room/42/notification?auth_token=TOKEN", E::WrongScheme),
        ("https://", E::NotAUrl(url::ParseError::EmptyHost)),
        (
            "https://h.example:99999/v2/room/42/notification?auth_token=TOKEN",
            E::NotAUrl(url::ParseError::InvalidPort),
        ),
        ("https://h.example:0/v2/room/42/notification?auth_token=TOKEN", E::PortZero),
        ("https://h.example../v2/room/42/notification?auth_token=TOKEN", E::EmptyHostLabel),
        ("https://.h.example/v2/room/42/notification?auth_token=TOKEN", E::EmptyHostLabel),
        ("https://h..example/v2/room/42/notification?auth_token=TOKEN", E::EmptyHostLabel),
        ("https://./v2/room/42/notification?auth_token=TOKEN", E::EmptyHostLabel),
        ("https://h\".example/v2/room/42/notification?auth_token=TOKEN", E::BadHost),
        ("https://h&'.example/v2/room/42/notification?auth_token=TOKEN", E::BadHost),
        ("https://TOKEN@h.example/v2/room/42/notification?auth_token=TOKEN", E::Credentials),
        ("https://u:TOKEN@h.example/v2/room/42/notification", E::Credentials),
        ("https://h.example/v2/room/C#/notification?auth_token=TOKEN", E::Fragment),
        ("https://h.example/v2/room/42/notification?auth_token=TOKEN#x", E::Fragment),
        ("https://h.example/?auth_token=TOKEN", path(", as HipChat shows it")),
        ("https://h.example/v1/rooms/message?auth_token=TOKEN", path(", as HipChat shows it")),
        ("https://h.example/notification?auth_token=TOKEN", path(", as HipChat shows it")),
        (
            "https://h.example/v2/room/42?auth_token=TOKEN",
            path("; add /notification after the room, and write ? in a room's name as %3F"),
        ),
        (
            "https://h.example/v2/room/a/b/notification?auth_token=TOKEN",
            path("; write / in a room's name as %2F"),
        ),
        ("https://h.example/v2/room//notification?auth_token=TOKEN", E::EmptyRoom),
        ("https://h.example/v2/room/notification?auth_token=TOKEN", E::EmptyRoom),
        ("https://h.example/v2/room/%20/notification?auth_token=TOKEN", E::EmptyRoom),
        ("https://h.example/v2/room/100%/notification?auth_token=TOKEN", E::BadRoomEncoding),
        ("https://h.example/v2/room/%zz/notification?auth_token=TOKEN", E::BadRoomEncoding),
        ("https://h.example/v2/room/%ff/notification?auth_token=TOKEN", E::BadRoomEncoding),
        ("https://h.example/v2/room/42/notification", E::MissingToken),
        ("https://h.example/v2/room/42/notification?auth_token=", E::MissingToken),
        ("https://h.example/v2/room/42/notification?auth_token=TOKEN&auth_token=TOKEN", E::RepeatedToken),
        ("https://h.example/v2/room/42/notification?auth_token=TOKEN TOKEN", E::BadToken),
        ("https://h.example/v2/room/42/notification?auth_token=TOKEN%0d%0a", E::BadToken),
        (
            "https://h.example/v2/room/42/notification?auth_token=TOKEN&auth_test=true",
            E::UnknownQuery("\"auth_test\"".into()),
        ),
        ("https://h.example/v2/room/42/notification?TOKEN", E::UnknownQuery("what has no known name".into())),
        (
            "http://h.example/v2/room/42/notification?auth_token=TOKEN",
            E::Egress(EgressDenied::PlainHttp { host: "h.example".into() }),
        ),
        (
            "https://10.0.0.5/v2/room/42/notification?auth_token=TOKEN",
            E::Egress(EgressDenied::Private { host: "10.0.0.5".into() }),
        ),
    ];
    for (text, expected) in cases {
        let error = parse(text).expect_err(text);
        assert_eq!(error, expected, "{text}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(TOKEN) && !shown.contains("/42/"), "{shown}");
        assert!(!error.to_string().contains('\n'), "{shown}");
    }
    let long = format!("https://h.example/v2/room/{}/notification", "a".repeat(LONGEST_URL));
    assert_eq!(parse(&long).err(), Some(E::TooLong));
}

#[test]
fn plain_http_and_private_addresses_need_the_allowance() {
    let egress = Egress::from_entries(&["127.0.0.1", "chat.internal"]).unwrap();
    for host in ["http://127.0.0.1:8321", "http://chat.internal", "https://127.0.0.1"] {
        let text = format!("{host}/v2/room/42/notification?auth_token={TOKEN}");
        assert_eq!(parse_room_url(&text, &egress).unwrap().room.as_str(), format!("{host}/v2/room/42"));
    }
}

#[test]
fn a_tokens_name_depends_on_server_and_token_only() {
    let key = |text: &str| token_key(&parse(text).unwrap());
    let one = key("https://h.example/v2/room/1/notification?auth_token=TOKEN");
    assert_eq!(one, key("https://H.example:443/v2/room/2/notification?auth_token=TOKEN"));
    assert_ne!(one, key("https://other.example/v2/room/1/notification?auth_token=TOKEN"));
    assert_ne!(one, key("https://h.example/v2/room/1/notification?auth_token=TOKENx"));
    assert_eq!(one.as_str().len(), 2 * FINGERPRINT_BYTES);
    assert!(!TOKEN.contains(one.as_str()));
}

proptest! {
    /// Any room name, encoded as one segment, comes back as one room, and reading its key's spelling again
    /// gives the same key.
    #[test]
    fn any_room_name_survives(name in "[^\\p{C}]{1,50}") {
        prop_assume!(!name.trim().is_empty() && !matches!(name.as_str(), "." | ".."));
        let encoded = utf8_percent_encode(&name, NON_ALPHANUMERIC);
        let target = parse(&format!("https://h.example/v2/room/{encoded}/notification?auth_token=TOKEN")).unwrap();
        let again = parse(&format!("{}/notification?auth_token=TOKEN", target.room)).unwrap();
        prop_assert_eq!(&again.room, &target.room);
        let spelled = target.room.as_str().rsplit('/').next().unwrap();
        prop_assert_eq!(percent_decode_str(spelled).decode_utf8().unwrap(), name);
    }

    /// No text makes it panic, or puts the token into an error.
    #[test]
    fn any_text_is_read_or_refused(before in ".{0,60}", after in ".{0,20}") {
        for text in [format!("{before}{TOKEN}{after}"), format!("https://h.example/{before}?auth_token={TOKEN}{after}")] {
            if let Err(error) = parse_room_url(&text, &Egress::default()) {
                prop_assert!(!error.to_string().contains(TOKEN));
            }
        }
    }
}
