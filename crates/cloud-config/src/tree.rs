//! YAML (1.2) to a tree of what is written, each node with its place. Scalars stay text, so that `0644`, `off` and `23:00` are what
//! they were for CoreOS, and aliases are not followed, so that a small document cannot become a large one.
use crate::problem::Mark;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;

/// Lists and mappings within each other.
pub(crate) const DEPTH_MAX: usize = 32;

const CORE: &str = "tag:yaml.org,2002:";

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub mark: Mark,
    /// As `!!str` or `!name`; empty for none.
    pub tag: String,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    /// `*name`.
    Alias,
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub text: String,
    /// Neither in quotes nor a block.
    pub plain: bool,
    /// Where the first line of the text stands, if its lines are lines of the document one by one: a literal block, `|`.
    pub body: Option<Mark>,
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub mark: Mark,
    /// Nothing for a key that is a list, a mapping or an alias.
    pub text: Option<String>,
}

/// A document, and where another one begins after it.
pub(crate) struct Loaded {
    pub root: Option<Node>,
    pub second: Option<Mark>,
}

/// Why it cannot be read, and where.
pub(crate) struct Broken {
    pub mark: Mark,
    pub message: String,
}

/// A collection whose end has not come yet.
enum Open {
    List(Mark, String, Vec<Node>),
    Map(Mark, String, Vec<(Key, Node)>, Option<Key>),
}

/// Reads the first document of a text whose first line is line `first` of the whole.
pub(crate) fn load(text: &str, first: usize) -> Result<Loaded, Broken> {
    let mut parser = Parser::new_from_str(text);
    let (mut stack, mut root) = (Vec::new(), None);
    let mark = |marker: &Marker| Mark {
        line: marker.line().max(1) + first - 1,
        column: marker.col() + 1,
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| Broken {
            mark: mark(error.marker()),
            message: match error.info() {
                // The parser's own, for brackets.
                "recursion limit exceeded" => too_deep(),
                why => format!("this is no valid YAML: {why}; look at indentation, quotes and colons here and above"),
            },
        })?;
        let at = mark(&span.start);
        let done = match event {
            Event::DocumentStart(_) if root.is_some() => {
                let second = Some(at);
                return Ok(Loaded { root, second });
            }
            Event::SequenceStart(_, tag) => {
                stack.push(Open::List(at, short(tag), Vec::new()));
                None
            }
            Event::MappingStart(_, tag) => {
                stack.push(Open::Map(at, short(tag), Vec::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => stack.pop().map(close),
            Event::Scalar(text, style, anchor, tag) => {
                let bare = anchor == 0 && tag.is_none();
                let body = bare.then(|| body(&text, style, span, first)).flatten();
                let plain = style == ScalarStyle::Plain;
                let text = text.into_owned();
                let kind = Kind::Scalar(Scalar { text, plain, body });
                let tag = short(tag);
                Some(Node {
                    mark: at,
                    tag,
                    kind,
                })
            }
            Event::Alias(_) => Some(Node {
                mark: at,
                tag: String::new(),
                kind: Kind::Alias,
            }),
            _ => None,
        };
        if stack.len() > DEPTH_MAX {
            let message = too_deep();
            return Err(Broken { mark: at, message });
        }
        match (done, stack.last_mut()) {
            (Some(node), Some(open)) => open.take(node),
            (Some(node), None) => root = Some(node),
            (None, _) => {}
        }
    }
    let second = None;
    Ok(Loaded { root, second })
}

fn too_deep() -> String {
    format!(
        "there are more than {DEPTH_MAX} lists and mappings within each other; no key needs as many"
    )
}

impl Open {
    fn take(&mut self, node: Node) {
        match self {
            Open::List(_, _, items) => items.push(node),
            Open::Map(_, _, entries, key) => match key.take() {
                None => {
                    let mark = node.mark;
                    let text = match node.kind {
                        Kind::Scalar(scalar) => Some(scalar.text),
                        _ => None,
                    };
                    *key = Some(Key { mark, text });
                }
                Some(key) => {
                    entries.push((key, node));
                }
            },
        }
    }
}

fn close(open: Open) -> Node {
    let (mark, tag, kind) = match open {
        Open::List(mark, tag, items) => (mark, tag, Kind::List(items)),
        Open::Map(mark, tag, entries, _) => (mark, tag, Kind::Map(entries)),
    };
    Node { mark, tag, kind }
}

impl Node {
    /// Whether nothing is written, or YAML's word for it.
    pub fn is_null(&self) -> bool {
        let null = |s: &Scalar| s.plain && matches!(&*s.text, "" | "~" | "null" | "Null" | "NULL");
        self.tag.is_empty() && matches!(&self.kind, Kind::Scalar(s) if null(s))
    }
}

/// The parser puts the start of a literal block at its first line that is not empty.
fn body(text: &str, style: ScalarStyle, span: Span, first: usize) -> Option<Mark> {
    let empty = text.chars().take_while(|c| *c == '\n').count();
    (style == ScalarStyle::Literal && empty < text.len()).then(|| Mark {
        line: (span.start.line() + first - 1).saturating_sub(empty).max(1),
        column: span.start.col() + 1,
    })
}

fn short(tag: Option<Cow<'_, Tag>>) -> String {
    match tag.as_deref() {
        None => String::new(),
        Some(tag) if tag.handle == CORE => format!("!!{}", tag.suffix),
        Some(tag) => format!("{}{}", tag.handle, tag.suffix),
    }
}
