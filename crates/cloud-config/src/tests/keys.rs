//! `hostname`, `ssh_authorized_keys`, `manage_etc_hosts`.
use super::{ED25519, good, one_problem};

const RSA: &str = "AAAAB3NzaC1yc2EAAAADAQABAAABAQCflQ8t34a+Try6FhubvwD0W1bWnsJ3ib4lGdK453iLditg56+MOl9tzRoivcD9sZN7pukwjXOL4e5WKLFMzf3n8hBkXgrImF6N+r4+ZsHNA8Ob4H3vhYvR8nQKNOIvIPGLA8YXRm5snWjX6ZYg16LpxrSWbReMhlqkaSmlE0agRVIpGpJSh8Wm8332IY1bF3h8P5ycQnvfkG/19gKc2247KBjQO2Kmlrajreh6WNH7JtfJNsYDJZ7O3AGrR+4+UC1B7GE4axbjb/6v5fP0o7Wi0X+Z2aD9qJ3JZpwIUYiIBHDfTpwA8jPgBWYlgtJ3XWDVNf/ZZ87AdbrEo/mng9W7";
const ECDSA: &str = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBia2LrPxGVo8UTEvu7Qvhs3A11bF+j0OAZXqy5gg6cT8YbBwUVh/3bJDDudadQ5NtQKHsPdVs7LGRR+qclSpt8=";
const SK: &str = "AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fAAAABHNzaDo=";

#[test]
fn hostnames() {
    let long = format!("{}.{}", "a".repeat(63), "b".repeat(63));
    for name in ["a", "web1", "1", "Web-1.example.com", &long] {
        let config = good(&format!("hostname: {name}\n"));
        assert_eq!(config.hostname.as_deref(), Some(name));
    }
    let whole = vec!["a".repeat(62); 5].join(".");
    let part = "a".repeat(64);
    for (name, words) in [
        ("''", "is no name"),
        ("web_1", "has a '_'"),
        ("-a", "dash"),
        ("a-.b", "dash"),
        ("a..b", "empty part"),
        ("a.", "empty part"),
        ("ä", "has a 'ä'"),
        ("a b", "has a ' '"),
        (&*part, "more than 63"),
        (&*whole, "longer than 253"),
    ] {
        let config = one_problem(&format!("hostname: {name}\n"), "line 2: hostname: ", words);
        assert_eq!(config.hostname, None);
    }
}

#[test]
fn keys_that_are_taken() {
    let lines = [
        ED25519.to_owned(),
        format!("ssh-rsa {RSA}"),
        format!("ecdsa-sha2-nistp256 {ECDSA} two  words"),
        format!("sk-ssh-ed25519@openssh.com {SK}"),
        format!("no-touch-required sk-ssh-ed25519@openssh.com {SK}"),
        format!("restrict,No-PTY,permitopen=\"a, b:22\",permitopen=\"c:*\" ssh-rsa {RSA}"),
        format!("command=\"printf 'a\\\\t b, c' ssh-rsa\",no-X11-forwarding ssh-rsa {RSA} me"),
    ];
    let body: String = lines
        .iter()
        .map(|line| format!("- |\n  {line}\n"))
        .collect();
    let config = good(&format!("ssh_authorized_keys:\n{body}"));
    assert_eq!(config.ssh_authorized_keys, lines);
}

#[test]
fn a_line_has_one_blank_between_its_parts() {
    let config = good(&format!(
        "ssh_authorized_keys:\n- \"ecdsa-sha2-nistp256\\t{ECDSA} \\t me\"\n- restrict   ssh-rsa  {RSA}\n"
    ));
    assert_eq!(
        config.ssh_authorized_keys,
        [
            format!("ecdsa-sha2-nistp256 {ECDSA} me"),
            format!("restrict ssh-rsa {RSA}")
        ]
    );
}

#[test]
fn options_that_the_server_refuses_are_named() {
    for (options, words) in [
        ("from=\"10.0.0.0/8\"", "has the option \"from\""),
        ("no-pty,FROM=\"a,b\"", "has the option \"FROM\""),
        ("cert-authority", "certificates are not taken"),
        ("restrict,pty", "instead of restrict"),
        ("environment=\"A=b\"", "write command="),
        ("expiry-time=\"20300101\"", "when its time is over"),
        ("no-user-rc", "remove it"),
        ("tunnel=\"0\"", "remove it"),
        ("restricted", "there are restrict, no-pty"),
        ("restrict,", "has the option \"\""),
        ("restrict=\"1\"", "has no value"),
        ("command", "needs a value"),
        ("command=ls", "has to be in quotes"),
        ("command=\"\"", "has to be in quotes"),
        ("command=\"echo \\\"a b\\\"\"", "write ' instead"),
        ("command=\"a\"no-pty", "has to be in quotes"),
        ("permitopen=\"a\"", "HOST:PORT"),
        ("permitopen=\"a:0\"", "HOST:PORT"),
    ] {
        let body = format!("ssh_authorized_keys:\n- |\n  {options} ssh-rsa {RSA}\n- {ED25519}\n");
        let config = one_problem(&body, "line 4: ssh_authorized_keys[0]: ", words);
        assert_eq!(config.ssh_authorized_keys, [ED25519], "{options}");
    }
}

#[test]
fn keys_that_are_not() {
    let cut = &RSA[..RSA.len() - 40];
    for (line, words) in [
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\n  b3BlbnNzaC1rZXktdjE",
            "is a private key",
        ),
        ("-----BEGIN RSA PRIVATE KEY-----", "is a private key"),
        ("---- BEGIN SSH2 PUBLIC KEY ----", "ssh-keygen -i"),
        ("ssh-dss AAAAB3NzaC1kc3M=", "DSA"),
        ("hello world", "has none of the types"),
        ("ssh-rsa", "is not whole"),
        ("ssh-rsa AAAA!", "is not whole"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB", "is not whole"),
        (&format!("ssh-rsa {cut}"), "is not whole"),
        (&format!("ssh-rsa {ECDSA}"), "is of another type"),
        (&format!("ssh-ed25519 {RSA}"), "is of another type"),
        (&format!("{ED25519}\n  {ED25519}"), "several lines"),
        ("# nothing", "is no key"),
        (
            &format!("command=\"{}\" {ED25519}", "a".repeat(4000)),
            "longer than 4000",
        ),
    ] {
        let body = format!("ssh_authorized_keys:\n- |\n  {line}\n- {ED25519}\n");
        let config = one_problem(&body, "line 4: ssh_authorized_keys[0]: ", words);
        assert_eq!(config.ssh_authorized_keys, [ED25519], "{line}");
    }
}

#[test]
fn a_private_key_is_not_repeated() {
    let parsed = super::read(
        "ssh_authorized_keys:\n- |\n  -----BEGIN OPENSSH PRIVATE KEY-----\n  c2VjcmV0\n",
    );
    assert!(!parsed.problems[0].message.contains("c2VjcmV0"));
}

#[test]
fn hosts() {
    assert!(good("manage_etc_hosts: localhost\n").manage_etc_hosts);
    assert!(good("manage_etc_hosts: true\n").manage_etc_hosts);
    assert!(!good("").manage_etc_hosts);
    for value in ["false", "template", "''"] {
        let config = one_problem(
            &format!("manage_etc_hosts: {value}\n"),
            "line 2: manage_etc_hosts: ",
            "write localhost",
        );
        assert!(!config.manage_etc_hosts);
    }
}
