//! Quoted word lists (systemd.syntax(7) "Quoting") and unit-name escaping (systemd-escape(1)).

/// Why a list of words cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// No closing quote.
    #[error("the quote {0} is not closed")]
    Unclosed(char),
    /// A backslash as the last character.
    #[error("a backslash stands at the end; write \\\\ for a literal one")]
    Dangling,
    /// An escape that systemd does not know.
    #[error("unknown escape \\{0}; write \\\\ for a literal backslash")]
    Unknown(String),
    /// Escapes made something that is not UTF-8.
    #[error("the escapes do not give UTF-8 text")]
    NotText,
}

/// Splits at blanks outside quotes; `'…'` and `"…"` group, C escapes are decoded everywhere.
pub fn split_words(text: &str) -> Result<Vec<String>, WordError> {
    let mut words = Vec::new();
    let mut word: Vec<u8> = Vec::new();
    let mut started = false;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, '\\') => {
                started = true;
                escape(&mut chars, &mut word)?;
            }
            (Some(q), c) if q == c => quote = None,
            (None, '\'' | '"') => {
                started = true;
                quote = Some(c);
            }
            (None, ' ' | '\t' | '\n' | '\r') => {
                if std::mem::take(&mut started) {
                    words.push(finish(&mut word)?);
                }
            }
            (_, c) => {
                started = true;
                word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    if let Some(q) = quote {
        return Err(WordError::Unclosed(q));
    }
    if started {
        words.push(finish(&mut word)?);
    }
    Ok(words)
}

fn finish(word: &mut Vec<u8>) -> Result<String, WordError> {
    String::from_utf8(std::mem::take(word)).map_err(|_| WordError::NotText)
}

fn escape(chars: &mut std::str::Chars<'_>, word: &mut Vec<u8>) -> Result<(), WordError> {
    let c = chars.next().ok_or(WordError::Dangling)?;
    let (radix, rest, wide) = match c {
        'x' => (16, 2, false),
        'u' => (16, 4, true),
        'U' => (16, 8, true),
        '0'..='7' => (8, 2, false),
        other => {
            word.push(match other {
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 11,
                's' => b' ',
                '\\' | '"' | '\'' => other as u8,
                _ => return Err(WordError::Unknown(other.to_string())),
            });
            return Ok(());
        }
    };
    let mut digits = if radix == 8 {
        c.to_string()
    } else {
        String::new()
    };
    digits.extend(chars.by_ref().take(rest));
    let unknown = || {
        WordError::Unknown(if radix == 8 {
            digits.clone()
        } else {
            format!("{c}{digits}")
        })
    };
    let complete = digits.chars().count() == rest + usize::from(radix == 8);
    if !complete || !digits.chars().all(|d| d.is_digit(radix)) {
        return Err(unknown());
    }
    let value = u32::from_str_radix(&digits, radix).map_err(|_| unknown())?;
    if value == 0 {
        return Err(unknown());
    }
    if wide {
        let found = char::from_u32(value).ok_or_else(unknown)?;
        word.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        word.push(u8::try_from(value).map_err(|_| unknown())?);
    }
    Ok(())
}

/// Escapes a string for use in a unit name: `/` becomes `-`, other foreign bytes `\xNN`.
pub fn escape_name(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if index == 0 => out.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => out.push(byte as char),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// As [`escape_name`], for a path: repeated and outer slashes vanish, the root is `-`.
pub fn escape_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        escape_name(&parts.join("/"))
    }
}

/// Undoes [`escape_name`]; sequences that are not `\xNN` stay. Bytes that are not UTF-8 become
/// the replacement character.
pub fn unescape_name(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
        match bytes[i] {
            b'-' => out.push(b'/'),
            b'\\' if bytes.get(i + 1) == Some(&b'x') => {
                if let (Some(high), Some(low)) = (hex(i + 2), hex(i + 3)) {
                    out.push((high * 16 + low) as u8);
                    i += 3;
                } else {
                    out.push(b'\\');
                }
            }
            byte => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Undoes [`escape_path`]: the result starts with `/`.
pub fn unescape_path(text: &str) -> String {
    let plain = unescape_name(text);
    if plain.starts_with('/') {
        plain
    } else {
        format!("/{plain}")
    }
}
