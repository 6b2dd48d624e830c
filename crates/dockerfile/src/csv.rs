//! One line of comma-separated values, as Go's `encoding/csv` reads it (RFC 4180).

/// The fields.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    let mut left = text;
    loop {
        let Some(quoted) = left.strip_prefix('"') else {
            let (field, rest) = match left.split_once(',') {
                Some((field, rest)) => (field, Some(rest)),
                None => (left, None),
            };
            if field.contains('"') {
                return Err("a quote stands in the middle of a field; put the whole field in quotes, and double those in it".to_owned());
            }
            all.push(field.to_owned());
            match rest {
                Some(rest) => left = rest,
                None => return Ok(all),
            }
            continue;
        };
        let (field, rest) = inside(quoted)?;
        all.push(field);
        match rest.strip_prefix(',') {
            Some(rest) => left = rest,
            None if rest.is_empty() => return Ok(all),
            None => return Err("something follows a closing quote; write a comma".to_owned()),
        }
    }
}

/// A quoted field and what follows its closing quote.
fn inside(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut left = text;
    loop {
        let Some((part, rest)) = left.split_once('"') else {
            return Err("a quote is open at the end; close it".to_owned());
        };
        field.push_str(part);
        match rest.strip_prefix('"') {
            // Two are one.
            Some(rest) => {
                field.push('"');
                left = rest;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn quotes_and_commas() {
        for (text, wanted) in [
            ("", &[""][..]),
            ("a=1,b", &["a=1", "b"]),
            ("a,", &["a", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("\"\"", &[""]),
        ] {
            assert_eq!(fields(text).unwrap(), wanted, "{text}");
        }
        for text in ["a\"b", "\"a", "\"a\"b", "a,\""] {
            assert!(fields(text).is_err(), "{text}");
        }
    }
}
