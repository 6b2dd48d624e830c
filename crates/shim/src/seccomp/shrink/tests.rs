//! Both programs are run on what may be asked, and must answer the same.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::caps::CapSet;
use crate::seccomp::uncompressed;

/// What the kernel would answer (`struct seccomp_data` as words).
fn run(program: &[Instruction], data: &[u32; 16]) -> u32 {
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let i = program[at];
        let yes = match i.code {
            RETURN => return i.value,
            LOAD => {
                a = data[usize::try_from(i.value / 4).unwrap()];
                false
            }
            AND => {
                a &= i.value;
                false
            }
            JUMP => true,
            IF_EQUAL => a == i.value,
            IF_MORE => a > i.value,
            IF_AT_LEAST => a >= i.value,
            IF_ANY_BIT => a & i.value != 0,
            other => panic!("{other:#x}"),
        };
        let (to, otherwise) = next(at, i).unwrap();
        at = if yes { to } else { otherwise };
    }
}

fn same(given: &[u8]) -> (usize, usize) {
    let made = shrink(given);
    let (given, made) = (decode(given).unwrap(), decode(&made).unwrap());
    let mut calls: Vec<u32> = (0..1100).collect();
    calls.extend((0x4000_0000..0x4000_0000 + 1100).chain([u32::MAX, u32::MAX - 1, 0x3fff_ffff]));
    let values = [
        0,
        1,
        8,
        40,
        41,
        0x0002_0000,
        0x0002_0008,
        0x1000_0000,
        0x7e02_0000,
        u32::MAX,
    ];
    for arch in [
        0xc000_003e,
        0x4000_0003,
        0xc000_00b7,
        0x4000_0028,
        0,
        u32::MAX,
    ] {
        for call in &calls {
            let mut data = [0; 16];
            (data[0], data[1]) = (*call, arch);
            // Each argument's low and high half.
            for word in 4..16 {
                for value in values {
                    data[word] = value;
                    assert_eq!(run(&given, &data), run(&made, &data), "{arch:#x} {data:x?}");
                }
                data[word] = 0;
            }
        }
    }
    (given.len(), made.len())
}

#[test]
fn dockers_filter_answers_the_same_and_is_much_smaller() {
    for caps in [
        CapSet::DOCKER_DEFAULT,
        CapSet::DOCKER_DEFAULT.with(crate::seccomp::profile::SYS_ADMIN),
    ] {
        let (before, after) = same(&uncompressed(caps).unwrap());
        assert!(after * 5 < before * 2, "{before} {after}");
    }
}

#[test]
fn what_it_does_not_know_stays() {
    let at_least = |value, yes, no| Instruction {
        code: IF_AT_LEAST,
        yes,
        no,
        value,
    };
    // Arithmetic on the call, a load that leads nowhere, half an instruction.
    let odd = encode(&[
        plain(LOAD, CALL),
        plain(AND, 1),
        at_least(1, 0, 1),
        plain(RETURN, 0),
        plain(RETURN, 1),
    ]);
    assert_eq!(shrink(&odd), odd);
    let open = encode(&[plain(LOAD, CALL), at_least(1, 9, 9)]);
    assert_eq!(shrink(&open), open);
    // A comparison with the index register (`jge x`) behind a look at an argument, in what could be shorter otherwise.
    let behind = |code| {
        let mut program = vec![plain(LOAD, ARCHITECTURE), plain(LOAD, CALL)];
        for call in 0..40 {
            program.push(Instruction {
                code: IF_EQUAL,
                yes: 43 - u8::try_from(call).unwrap(),
                no: 0,
                value: call,
            });
        }
        let compare = Instruction {
            code,
            yes: 0,
            no: 1,
            value: 1,
        };
        program.extend([plain(LOAD, 16), compare, plain(RETURN, 0)]);
        program.extend([plain(RETURN, 1), plain(RETURN, 2)]);
        encode(&program)
    };
    let (known, odd) = (behind(IF_AT_LEAST), behind(0x3d));
    assert!(shrink(&known).len() < known.len());
    assert_eq!(shrink(&odd), odd);
    assert_eq!(shrink(&[1, 2, 3]), [1, 2, 3]);
    assert_eq!(shrink(&[]), [0_u8; 0]);
}

#[test]
fn comparisons_of_every_kind() {
    for (code, value) in [
        (IF_EQUAL, 0),
        (IF_EQUAL, u32::MAX),
        (IF_MORE, 0),
        (IF_MORE, u32::MAX),
        (IF_AT_LEAST, 0),
        (IF_AT_LEAST, 7),
    ] {
        let test = |yes, no| Instruction {
            code,
            yes,
            no,
            value,
        };
        let mut program = vec![plain(LOAD, CALL)];
        program.extend([
            test(0, 1),
            plain(RETURN, 1),
            test(1, 0),
            plain(RETURN, 2),
            plain(RETURN, 3),
        ]);
        let made = generate(&program, paths(&program).unwrap()).unwrap();
        for call in [0, 1, 6, 7, 8, u32::MAX - 1, u32::MAX] {
            let mut data = [0; 16];
            data[0] = call;
            assert_eq!(
                run(&program, &data),
                run(&made, &data),
                "{code:#x} {value} {call}"
            );
        }
    }
}
