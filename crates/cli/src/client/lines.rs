//! Answers that are JSON, line by line, as it comes.

use crate::error::{CliError, Result};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;

/// Turns a line of a stream that says why it ended into an error.
pub fn check_line(line: &Value) -> Result<()> {
    match line["error"].as_str() {
        None => Ok(()),
        Some(error) => Err(CliError::Daemon {
            status: 500,
            message: error.to_owned(),
            diagnostics: Value::Null,
        }),
    }
}

/// The lines of a JSON stream as they come.
pub struct JsonLines {
    body: Incoming,
    rest: Vec<u8>,
}

impl JsonLines {
    /// Reads an answer's body.
    pub fn new(answer: Response<Incoming>) -> Self {
        Self {
            body: answer.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next value, or nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                None if self.rest.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.rest);
                    return Ok(Some(serde_json::from_slice(&line)?));
                }
            }
        }
    }
}
