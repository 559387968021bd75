//! Bad input for every entry: the server refuses it and goes on.
//!
//! | input | what comes back |
//! |---|---|
//! | nothing, another type, another command | the caller is blamed |
//! | cut anywhere, random bytes, a megabyte of them | the caller is blamed, or the bytes are a valid message |
//! | an unknown handle | NotFound, or InvalidArgument when it is malformed |
//!
//! `bad_input::garbage` sends random bytes to every RPC; this module follows the list, and knows what must be refused.

use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::{Code, Status};

use super::wire::{Answer, envelope};
use super::world::World;
use super::{Entry, Rpc, Standing, entries};
use crate::bad_input::{assert_still_answers, blames_caller};
use crate::support::{Mismatches, bounded, minutes};

const SEED: u64 = 20_261_123;

/// Places at which a message is cut.
const CUTS: usize = 12;

/// Bytes of a message that is too long to be one.
const LONG: usize = 1024 * 1024;

/// The allowed outcomes of an input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    /// A status that blames the caller.
    Refusal,
    /// A status that blames the caller, or an answer, since the bytes may be a valid message.
    Answer,
}

#[test]
fn malformed_input_blames_the_caller() {
    bounded(minutes(8), async {
        let world = World::start().await;
        let mut random = StdRng::seed_from_u64(SEED);
        let mut mismatches = Mismatches::default();
        for entry in entries() {
            let Some(example) = entry.example else {
                continue;
            };
            for rpc in entry.rpcs {
                let good = example(&world).await;
                for (what, bytes, allowed) in bad_inputs(&entry, *rpc, &good, &mut random) {
                    let outcome = world.send(entry.request(*rpc, bytes)).await;
                    let title = format!("{}: {what} in {rpc} (seed {SEED})", entry.title());
                    mismatches.note(&title, judge(outcome, allowed));
                }
            }
        }
        assert_still_answers(&world.client).await;
        mismatches.assert_none();
    });
}

/// Checks an outcome against the allowed ones.
fn judge(outcome: Result<Answer, Status>, allowed: Allowed) -> Result<(), String> {
    match outcome {
        Err(status) if blames_caller(&status) => Ok(()),
        Err(status) => Err(format!("does not blame the caller: {status}")),
        Ok(_) if allowed == Allowed::Answer => Ok(()),
        Ok(_) => Err("answered".into()),
    }
}

/// All kinds of malformed messages.
fn bad_inputs(entry: &Entry, rpc: Rpc, good: &[u8], random: &mut StdRng) -> Vec<(String, Vec<u8>, Allowed)> {
    // The messages of Flight's own actions have no envelope, and each field may be absent.
    let is_bare = rpc == Rpc::DoAction && !entry.message.starts_with("Action");
    let strict = if is_bare { Allowed::Answer } else { Allowed::Refusal };
    let other = if entry.message.contains("Savepoint") {
        "CommandGetCatalogs"
    } else {
        "ActionEndSavepointRequest"
    };
    let mut inputs = vec![
        ("nothing".into(), Vec::new(), strict),
        ("another command".into(), envelope(other, Vec::new()), strict),
        ("another type".into(), foreign_message(), strict),
        ("no name".into(), envelope("", good.to_vec()), strict),
        ("bytes that are no message".into(), vec![0xff; 9], Allowed::Refusal),
    ];
    for cut in 1..=CUTS {
        let at = good.len() * cut / (CUTS + 1);
        inputs.push((format!("cut at byte {at}"), good[..at].to_vec(), Allowed::Answer));
    }
    for length in [1, 7, 60, 400] {
        let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
        inputs.push((
            format!("{length} random bytes"),
            envelope(entry.message, noise.clone()),
            Allowed::Answer,
        ));
        inputs.push((format!("{length} bare random bytes"), noise, Allowed::Answer));
    }
    let long: Vec<u8> = (0..LONG).map(|_| random.random()).collect();
    inputs.push(("a megabyte".into(), envelope(entry.message, long), Allowed::Answer));
    let mut swollen = good.to_vec();
    swollen.extend([0xff; 40]);
    inputs.push(("a tail".into(), swollen, Allowed::Refusal));
    inputs
}

/// An envelope with a message of another protocol.
fn foreign_message() -> Vec<u8> {
    let type_url = "type.googleapis.com/acme.Teapot".into();
    let value = vec![8, 1].into();
    arrow_flight::sql::Any { type_url, value }.encode_to_vec()
}

#[test]
fn unknown_handles_are_not_found() {
    bounded(minutes(5), async {
        let world = World::start().await;
        let mut mismatches = Mismatches::default();
        for entry in entries() {
            let (Some(with_handle), Standing::Served(_)) = (entry.with_handle, entry.standing) else {
                continue;
            };
            let long = vec![b'a'; LONG];
            let handles: [&[u8]; 7] = [
                b"",
                b"unknown",
                b"unknown.binding",
                b"0123456789abcdef0123456789abcdef",
                b"\xff\xfe\x00",
                b"../../etc/passwd",
                &long,
            ];
            for handle in handles {
                for rpc in entry.rpcs {
                    let outcome = world.send(entry.request(*rpc, with_handle(handle))).await;
                    let verdict = match outcome {
                        Ok(_) => Err("answered".into()),
                        Err(status) if is_not_found(&status) => Ok(()),
                        Err(status) => Err(status.to_string()),
                    };
                    let shown = String::from_utf8_lossy(handle);
                    mismatches.note(&format!("{}: {shown:.40} in {rpc}", entry.title()), verdict);
                }
            }
        }
        assert_still_answers(&world.client).await;
        mismatches.assert_none();
    });
}

/// An unsigned ticket is malformed; every other handle is unknown.
fn is_not_found(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::InvalidArgument) && !status.message().is_empty()
}

/// Sends each command to each RPC that is not in its rows.
#[test]
fn commands_in_wrong_rpc_are_refused() {
    bounded(minutes(5), async {
        let world = World::start().await;
        let mut mismatches = Mismatches::default();
        let entries = entries();
        let taken = |message: &str, rpc: Rpc| {
            let mut rows = entries.iter().filter(|entry| entry.message == message);
            rows.any(|entry| entry.rpcs.contains(&rpc))
        };
        for entry in &entries {
            let (Some(example), None) = (entry.example, entry.action()) else {
                continue;
            };
            for rpc in [
                Rpc::GetFlightInfo,
                Rpc::GetSchema,
                Rpc::PollFlightInfo,
                Rpc::DoGet,
                Rpc::DoPut,
            ] {
                if taken(entry.message, rpc) {
                    continue;
                }
                let outcome = world.send(entry.request(rpc, example(&world).await)).await;
                let title = format!("{} in {rpc}", entry.message);
                mismatches.note(&title, judge(outcome, Allowed::Refusal));
            }
        }
        mismatches.assert_none();
    });
}
