//! Makes a filter smaller without changing what it answers.
//!
//! The kernel translates the whole program each time a process loads it, which for libseccomp's (one comparison for each
//! call) takes longer than all else that an `exec` does. Calls that are neighbours mostly have the same answer, so ranges of
//! them say the same in a fraction of the instructions.
//!
//! Every path through the given program is followed with the ranges of architectures and calls that can take it, so the
//! ranges together are all that can be asked. What looks at arguments is copied as it is. The instructions are those of
//! classic BPF (`linux/filter.h`), the data is `struct seccomp_data` of `seccomp(2)`.
//!
//! # A worked example
//!
//! `nr == 0 → allow; nr == 1 → allow; nr == 2 → allow; else errno` becomes `nr >= 3 → errno; else allow`.

use std::ops::RangeInclusive;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_MORE: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// More than any real program needs; one that would take more is left as it is.
const MOST_PATHS: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

type Range = RangeInclusive<u32>;

/// What a range of calls leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Return(u32),
    /// What is done from that instruction on.
    From(usize),
}

/// A program (eight bytes an instruction) that answers as the given one does, and is not longer.
pub fn shrink(program: &[u8]) -> Vec<u8> {
    let smaller = decode(program).and_then(|given| {
        let made = generate(&given, paths(&given)?)?;
        (made.len() < given.len()).then_some(made)
    });
    smaller.map_or_else(|| program.to_vec(), |made| encode(&made))
}

fn decode(program: &[u8]) -> Option<Vec<Instruction>> {
    let (instructions, rest) = program.as_chunks::<8>();
    let one = |b: &[u8; 8]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        yes: b[2],
        no: b[3],
        value: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    rest.is_empty()
        .then(|| instructions.iter().map(one).collect())
}

fn encode(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for i in program {
        bytes.extend(i.code.to_ne_bytes());
        bytes.extend([i.yes, i.no]);
        bytes.extend(i.value.to_ne_bytes());
    }
    bytes
}

/// Where an instruction may go on, given where it is; nothing for one that is not known.
fn next(at: usize, i: Instruction) -> Option<(usize, usize)> {
    let far = usize::try_from(i.value).ok()?;
    Some(match i.code {
        JUMP => (
            at.checked_add(1)?.checked_add(far)?,
            at.checked_add(1)?.checked_add(far)?,
        ),
        IF_EQUAL | IF_MORE | IF_AT_LEAST | IF_ANY_BIT => {
            (at + 1 + usize::from(i.yes), at + 1 + usize::from(i.no))
        }
        LOAD | AND | RETURN => (at + 1, at + 1),
        // What else a program may do, such as load by an index, no filter of ours does.
        _ => return None,
    })
}

/// The part of a range above (at least) a value, and the rest.
fn split(range: &Range, from: Option<u32>) -> (Option<Range>, Option<Range>) {
    let some = |r: Range| (!r.is_empty()).then_some(r);
    let Some(from) = from else {
        return (None, some(range.clone()));
    };
    let above = some(*range.start().max(&from)..=*range.end());
    let below = from
        .checked_sub(1)
        .and_then(|last| some(*range.start()..=*range.end().min(&last)));
    (above, below)
}

/// Every path: architectures, calls, and what they lead to. Nothing if the program does what no filter of ours does.
fn paths(program: &[Instruction]) -> Option<Vec<(Range, Range, Answer)>> {
    struct State {
        at: usize,
        loaded: Option<u32>,
        arch: Range,
        call: Range,
    }
    let all = 0..=u32::MAX;
    let mut todo = vec![State {
        at: 0,
        loaded: None,
        arch: all.clone(),
        call: all,
    }];
    let mut found = Vec::new();
    while let Some(state) = todo.pop() {
        if found.len() + todo.len() > MOST_PATHS {
            return None;
        }
        let i = *program.get(state.at)?;
        let (yes, no) = next(state.at, i)?;
        match i.code {
            RETURN => found.push((state.arch, state.call, Answer::Return(i.value))),
            JUMP => todo.push(State { at: yes, ..state }),
            LOAD if i.value == CALL || i.value == ARCHITECTURE => todo.push(State {
                at: yes,
                loaded: Some(i.value),
                ..state
            }),
            LOAD => found.push((state.arch, state.call, Answer::From(state.at))),
            IF_EQUAL | IF_MORE | IF_AT_LEAST => {
                let on = match state.loaded? {
                    CALL => &state.call,
                    _ => &state.arch,
                };
                let (above, equal_or_above) = match i.code {
                    IF_EQUAL => (i.value.checked_add(1), Some(i.value)),
                    IF_MORE => (i.value.checked_add(1), i.value.checked_add(1)),
                    _ => (Some(i.value), Some(i.value)),
                };
                let (high, low) = split(on, above);
                let (middle, low) = match low {
                    Some(low) => split(&low, equal_or_above),
                    None => (None, None),
                };
                let high_goes = if i.code == IF_EQUAL { no } else { yes };
                for (part, at) in [(high, high_goes), (middle, yes), (low, no)] {
                    let Some(part) = part else { continue };
                    let (arch, call) = match state.loaded {
                        Some(CALL) => (state.arch.clone(), part),
                        _ => (part, state.call.clone()),
                    };
                    todo.push(State {
                        at,
                        loaded: state.loaded,
                        arch,
                        call,
                    });
                }
            }
            _ => return None,
        }
    }
    Some(found)
}

fn generate(
    given: &[Instruction],
    mut paths: Vec<(Range, Range, Answer)>,
) -> Option<Vec<Instruction>> {
    paths.sort_by_key(|(arch, call, _)| (*arch.start(), *call.start()));
    // Architectures with the calls of each; neighbours that answer alike are one.
    let mut architectures: Vec<(u32, Vec<(u32, Answer)>)> = Vec::new();
    for of_one in paths.chunk_by(|a, b| a.0 == b.0) {
        let mut calls: Vec<(u32, Answer)> = Vec::new();
        for (_, call, answer) in of_one {
            if calls.last().is_none_or(|(_, last)| last != answer) {
                calls.push((*call.start(), answer.clone()));
            }
        }
        let (first, _) = calls.first()?;
        // Paths whose architectures overlap without being the same would be more than this can say.
        let arch = *of_one.first()?.0.start();
        if *first != 0 {
            return None;
        }
        if architectures.last().is_none_or(|(_, last)| *last != calls) {
            architectures.push((arch, calls));
        }
    }
    let disjoint = |pair: &[(Range, Range, Answer)]| {
        pair[0].0 == pair[1].0 || pair[0].0.end() < pair[1].0.start()
    };
    if !paths.windows(2).all(disjoint) {
        return None;
    }
    let leaf = |calls: &[(u32, Vec<(u32, Answer)>)]| {
        let [(_, calls)] = calls else {
            return Known::No;
        };
        let answer = |answers: &[(u32, Answer)]| match answers {
            [(_, Answer::From(at))] => copy(given, *at).into(),
            answers => returns(answers),
        };
        let Some(tree) = tree(calls, &answer) else {
            return Known::Never;
        };
        // One answer for all calls needs no look at the call.
        if calls.len() == 1 {
            return Known::Code(tree);
        }
        Known::Code([vec![plain(LOAD, CALL)], tree].concat())
    };
    let tree = tree(&architectures, &leaf)?;
    Some([vec![plain(LOAD, ARCHITECTURE)], tree].concat())
}

fn plain(code: u16, value: u32) -> Instruction {
    Instruction {
        code,
        yes: 0,
        no: 0,
        value,
    }
}

/// What ranges become.
enum Known {
    Code(Vec<Instruction>),
    /// They are too many for one piece.
    No,
    /// They cannot be said.
    Never,
}

impl From<Option<Vec<Instruction>>> for Known {
    fn from(code: Option<Vec<Instruction>>) -> Self {
        code.map_or(Self::Never, Self::Code)
    }
}

/// Ranges that only return, at most so many that every jump reaches the returns, which stand once at the end.
fn returns(ranges: &[(u32, Answer)]) -> Known {
    const MOST: usize = 100;
    let mut values = Vec::new();
    let mut answers = Vec::new();
    for (from, answer) in ranges {
        let Answer::Return(value) = answer else {
            return Known::No;
        };
        let at = values.iter().position(|v| v == value);
        answers.push((*from, at.unwrap_or(values.len())));
        if at.is_none() {
            values.push(*value);
        }
    }
    if ranges.len() > MOST || values.len() > MOST {
        return Known::No;
    }
    let mut made = Vec::new();
    // A range alone is a return.
    if answers.len() > 1 && halves(&answers, ranges.len() - 1, &mut made).is_none() {
        return Known::Never;
    }
    made.extend(values.iter().map(|v| plain(RETURN, *v)));
    Known::Code(made)
}

/// One comparison a node; `end` is where the returns begin.
fn halves(ranges: &[(u32, usize)], end: usize, made: &mut Vec<Instruction>) -> Option<()> {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let here = made.len();
    made.push(plain(IF_AT_LEAST, high.first()?.0));
    let side = |ranges: &[(u32, usize)], made: &mut Vec<Instruction>| {
        let to = match ranges {
            [(_, value)] => end + value,
            more => {
                let to = made.len();
                halves(more, end, made)?;
                to
            }
        };
        u8::try_from(to - here - 1).ok()
    };
    let (no, yes) = (side(low, made)?, side(high, made)?);
    (made[here].yes, made[here].no) = (yes, no);
    Some(())
}

/// Finds the range that the loaded value is in by halves, until `leaf` knows what they become. Ranges begin at their number
/// and end before the next.
fn tree<T>(ranges: &[(u32, T)], leaf: &impl Fn(&[(u32, T)]) -> Known) -> Option<Vec<Instruction>> {
    match leaf(ranges) {
        Known::Code(code) => return Some(code),
        Known::Never => return None,
        Known::No if ranges.len() < 2 => return None,
        Known::No => {}
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (from, _) = high.first()?;
    let (low, high) = (tree(low, leaf)?, tree(high, leaf)?);
    let mut made = match u8::try_from(low.len()) {
        Ok(yes) => vec![Instruction {
            code: IF_AT_LEAST,
            yes,
            no: 0,
            value: *from,
        }],
        // Too far for a comparison's jump.
        Err(_) => vec![
            Instruction {
                code: IF_AT_LEAST,
                yes: 0,
                no: 1,
                value: *from,
            },
            plain(JUMP, u32::try_from(low.len()).ok()?),
        ],
    };
    made.extend(low);
    made.extend(high);
    Some(made)
}

/// All that is done from an instruction on, which loads what it needs itself.
fn copy(program: &[Instruction], from: usize) -> Option<Vec<Instruction>> {
    let mut reached = vec![from];
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        let i = *program.get(at)?;
        if i.code == RETURN {
            continue;
        }
        let (yes, no) = next(at, i)?;
        for to in [yes, no] {
            if !reached.contains(&to) {
                reached.push(to);
                todo.push(to);
            }
        }
    }
    reached.sort_unstable();
    let place = |at: usize| reached.binary_search(&at).ok();
    let mut made = Vec::with_capacity(reached.len());
    for (here, at) in reached.iter().enumerate() {
        let mut i = *program.get(*at)?;
        let (yes, no) = next(*at, i)?;
        match i.code {
            RETURN => {}
            JUMP => i.value = u32::try_from(place(yes)? - here - 1).ok()?,
            IF_EQUAL | IF_MORE | IF_AT_LEAST | IF_ANY_BIT => {
                i.yes = u8::try_from(place(yes)? - here - 1).ok()?;
                i.no = u8::try_from(place(no)? - here - 1).ok()?;
            }
            // What goes on with the next instruction must still have it there.
            _ if place(yes)? != here + 1 => return None,
            _ => {}
        }
        made.push(i);
    }
    Some(made)
}

#[cfg(test)]
mod tests;
