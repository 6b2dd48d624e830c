//! etcdctl's ways of writing answers: `simple`, `json` and `fields`.

use super::model::{Delete, Event, Header, KeyValue, Put, Range, Step, Txn, Watched};
use crate::error::Result;
use crate::format::out_bytes;
use serde::Serialize;
use std::io::Write as _;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Keys and values, a line each
    Simple,
    /// As etcdctl's JSON, bytes in base64
    Json,
    /// As simple, bytes as \x61
    Hex,
    /// A line for each field
    Fields,
}

/// Flags of what writes answers.
#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// How the answer is written
    #[arg(
        short = 'w',
        long = "write-out",
        value_name = "FORM",
        default_value = "simple"
    )]
    form: Form,
    /// Write bytes as \x61; for simple
    #[arg(long)]
    hex: bool,
}

/// What is written, before it is.
pub struct Sheet {
    form: Form,
    hex: bool,
    text: Vec<u8>,
}

impl Output {
    /// The form, where hex is simple.
    pub fn form(&self) -> Form {
        match self.form {
            Form::Hex => Form::Simple,
            form => form,
        }
    }

    /// Nothing written yet.
    pub fn sheet(&self) -> Sheet {
        Sheet {
            form: self.form(),
            hex: self.hex || self.form == Form::Hex,
            text: Vec::new(),
        }
    }

    /// Writes an answer by the way of its form.
    pub fn show<T: Serialize>(
        &self,
        answer: &T,
        simple: impl FnOnce(&mut Sheet),
        fields: impl FnOnce(&mut Sheet),
    ) -> Result<()> {
        let mut sheet = self.sheet();
        match sheet.form {
            Form::Json => {
                sheet.text = serde_json::to_vec(answer)?;
                sheet.text.push(b'\n');
            }
            Form::Fields => fields(&mut sheet),
            Form::Simple | Form::Hex => simple(&mut sheet),
        }
        sheet.print()
    }
}

impl Sheet {
    /// Writes it to stdout.
    pub fn print(&self) -> Result<()> {
        out_bytes(&self.text)
    }

    /// A line of ours.
    pub fn line(&mut self, text: impl std::fmt::Display) {
        // A vector takes whatever is written.
        let _ = writeln!(self.text, "{text}");
    }

    /// A line of the store's bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        if self.hex {
            for byte in bytes {
                let _ = write!(self.text, "\\x{byte:02x}");
            }
        } else {
            self.text.extend_from_slice(bytes);
        }
        self.text.push(b'\n');
    }

    /// `"Name" : value`
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format_args!("\"{name}\" : {value}"));
    }

    pub fn header(&mut self, header: &Header) {
        self.field("ClusterID", header.cluster_id);
        self.field("MemberID", header.member_id);
        self.field("Revision", header.revision);
        self.field("RaftTerm", header.raft_term);
    }

    fn kv(&mut self, kv: &KeyValue) {
        self.bytes(&kv.key.0);
        self.bytes(&kv.value.0);
    }

    fn kv_fields(&mut self, prefix: &str, kv: &KeyValue) {
        self.field(&format!("{prefix}Key"), quoted(&kv.key.0));
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.field(&format!("{prefix}Value"), quoted(&kv.value.0));
        self.field(&format!("{prefix}Lease"), kv.lease);
    }

    pub fn range(&mut self, found: &Range, values_only: bool) {
        for kv in &found.kvs {
            if values_only {
                self.bytes(&kv.value.0);
            } else {
                self.kv(kv);
            }
        }
    }

    pub fn range_fields(&mut self, found: &Range) {
        self.header(&found.header);
        for kv in &found.kvs {
            self.kv_fields("", kv);
        }
        self.field("More", found.more);
        self.field("Count", found.count);
    }

    pub fn put(&mut self, done: &Put) {
        self.line("OK");
        if let Some(kv) = &done.prev_kv {
            self.kv(kv);
        }
    }

    pub fn put_fields(&mut self, done: &Put) {
        self.header(&done.header);
        if let Some(kv) = &done.prev_kv {
            self.kv_fields("Prev", kv);
        }
    }

    pub fn delete(&mut self, done: &Delete) {
        self.line(done.deleted);
        for kv in &done.prev_kvs {
            self.kv(kv);
        }
    }

    pub fn delete_fields(&mut self, done: &Delete) {
        self.header(&done.header);
        self.field("Deleted", done.deleted);
        for kv in &done.prev_kvs {
            self.kv_fields("Prev", kv);
        }
    }

    pub fn txn(&mut self, done: &Txn) {
        self.line(if done.succeeded { "SUCCESS" } else { "FAILURE" });
        for step in &done.responses {
            self.line("");
            match step {
                Step::Range(found) => self.range(found, false),
                Step::Put(done) => self.put(done),
                Step::Delete(done) => self.delete(done),
            }
        }
    }

    pub fn txn_fields(&mut self, done: &Txn) {
        self.header(&done.header);
        self.field("Succeeded", done.succeeded);
        for step in &done.responses {
            match step {
                Step::Range(found) => self.range_fields(found),
                Step::Put(done) => self.put_fields(done),
                Step::Delete(done) => self.delete_fields(done),
            }
        }
    }

    pub fn watched(&mut self, told: &Watched) {
        for event in &told.events {
            self.line(kind(event));
            if let Some(kv) = &event.prev_kv {
                self.kv(kv);
            }
            self.kv(&event.kv);
        }
    }

    pub fn watched_fields(&mut self, told: &Watched) {
        self.header(&told.header);
        for event in &told.events {
            self.field("Type", kind(event));
            if let Some(kv) = &event.prev_kv {
                self.kv_fields("Prev", kv);
            }
            self.kv_fields("", &event.kv);
        }
    }
}

fn kind(event: &Event) -> &'static str {
    if event.deleted { "DELETE" } else { "PUT" }
}

/// Bytes as Go's `%q` writes them.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\x07' => text.push_str("\\a"),
                '\x08' => text.push_str("\\b"),
                '\x0c' => text.push_str("\\f"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\x0b' => text.push_str("\\v"),
                c if c < ' ' || c == '\x7f' => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if is_printable(c) => text.push(c),
                c if u32::from(c) < 0x1_0000 => {
                    text.push_str(&format!("\\u{:04x}", u32::from(c)));
                }
                c => text.push_str(&format!("\\U{:08x}", u32::from(c))),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

fn is_printable(c: char) -> bool {
    // After another one, so that what combines with it counts as printable, as in Go.
    c == '\'' || format!("x{c}").escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_go_quotes_them() {
        for (bytes, text) in [
            (&b"a'b"[..], r#""a'b""#),
            (b"\"\\\n\t\x00\x7f", r#""\"\\\n\t\x00\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            (
                "é\u{a0}\u{300}\u{1f600}".as_bytes(),
                "\"é\\u00a0\u{300}\u{1f600}\"",
            ),
            ("\u{e000}\u{e0001}".as_bytes(), r#""\ue000\U000e0001""#),
        ] {
            assert_eq!(quoted(bytes), text);
        }
    }
}
