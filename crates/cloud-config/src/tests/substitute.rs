//! Addresses of the machine.
use crate::{MissingAddress, needs_address, substitute};
use std::net::Ipv4Addr;

const PRIVATE: Option<Ipv4Addr> = Some(Ipv4Addr::new(10, 0, 0, 2));
const PUBLIC: Option<Ipv4Addr> = Some(Ipv4Addr::new(192, 0, 2, 7));

#[test]
fn addresses_are_put_everywhere() {
    let text = "a: $private_ipv4\nb: http://${public_ipv4}:80,$private_ipv4$public_ipv4\n";
    let want = "a: 10.0.0.2\nb: http://192.0.2.7:80,10.0.0.2192.0.2.7\n";
    assert_eq!(substitute(text, PRIVATE, PUBLIC).as_deref(), Ok(want));
    assert!(needs_address(text));
}

#[test]
fn what_else_there_is_stays() {
    for text in [
        "",
        "$",
        "$$",
        "$HOME ${x} $private_ipv6 ${private_ipv4 $ {private_ipv4} private_ipv4",
        "ä$ö",
    ] {
        assert_eq!(substitute(text, None, None).as_deref(), Ok(text));
        assert!(!needs_address(text));
    }
}

#[test]
fn after_a_backslash_the_word_is_meant() {
    let text = "\\$private_ipv4 \\${public_ipv4} \\$x";
    assert_eq!(
        substitute(text, PRIVATE, None).as_deref(),
        Ok("$private_ipv4 ${public_ipv4} \\$x")
    );
    assert!(!needs_address(text));
}

#[test]
fn an_address_that_is_not_known() {
    let text = "#cloud-config\na: $private_ipv4\nb: ${public_ipv4}\n";
    let missing = MissingAddress {
        line: 3,
        name: "public_ipv4",
    };
    assert!(
        missing
            .to_string()
            .starts_with("line 3: $public_ipv4 stands for")
    );
    assert_eq!(substitute(text, PRIVATE, None), Err(missing));
    assert_eq!(
        substitute(text, None, PUBLIC),
        Err(MissingAddress {
            line: 2,
            name: "private_ipv4"
        })
    );
}
