//! No entry takes bad input for good, and none is brought down by it.
//!
//! | input | what comes back |
//! |---|---|
//! | nothing, another type, another command | the caller is blamed |
//! | cut anywhere, random bytes, a megabyte of them | the caller is blamed, or it was a message after all |
//! | a handle that nobody gave | NotFound, or InvalidArgument for one that cannot be one |
//!
//! `bad_input::garbage` throws random bytes at everything; this goes by the list, and knows what must be refused.

use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::{Code, Status};

use super::wire::{Answer, envelope};
use super::world::World;
use super::{Entry, Rpc, Standing, entries};
use crate::bad_input::{blames_the_caller, goes_on};
use crate::support::{Mismatches, bounded, minutes};

const SEED: u64 = 20_261_123;

/// Places at which a message is cut.
const CUTS: usize = 12;

/// Bytes of a message that is too long to be one.
const LONG: usize = 1024 * 1024;

/// What an input may lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    /// A status that blames the caller.
    Refusal,
    /// That, or an answer: the bytes may be a message.
    Answer,
}

#[test]
fn no_entry_takes_bad_input_for_good() {
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
                for (what, bytes, allowed) in bad(&entry, *rpc, &good, &mut random) {
                    let outcome = world.send(entry.request(*rpc, bytes)).await;
                    let title = format!("{}: {what} in {rpc} (seed {SEED})", entry.title());
                    mismatches.note(&title, judged(outcome, allowed));
                }
            }
        }
        goes_on(&world.client).await;
        mismatches.assert_none();
    });
}

fn judged(outcome: Result<Answer, Status>, allowed: Allowed) -> Result<(), String> {
    match outcome {
        Err(status) if blames_the_caller(&status) => Ok(()),
        Err(status) => Err(format!("does not blame the caller: {status}")),
        Ok(_) if allowed == Allowed::Answer => Ok(()),
        Ok(_) => Err("answered".into()),
    }
}

/// Everything wrong that a message can be.
fn bad(entry: &Entry, rpc: Rpc, good: &[u8], random: &mut StdRng) -> Vec<(String, Vec<u8>, Allowed)> {
    // The messages of Flight's own actions stand without an envelope, and each field may be absent.
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
        ("another type".into(), foreign(), strict),
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

/// An envelope around a message of somebody else.
fn foreign() -> Vec<u8> {
    let type_url = "type.googleapis.com/acme.Teapot".into();
    let value = vec![8, 1].into();
    arrow_flight::sql::Any { type_url, value }.encode_to_vec()
}

#[test]
fn handles_that_nobody_gave_are_not_found() {
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
                    let judged = match outcome {
                        Ok(_) => Err("answered".into()),
                        Err(status) if is_not_found(&status) => Ok(()),
                        Err(status) => Err(status.to_string()),
                    };
                    let shown = String::from_utf8_lossy(handle);
                    mismatches.note(&format!("{}: {shown:.40} in {rpc}", entry.title()), judged);
                }
            }
        }
        goes_on(&world.client).await;
        mismatches.assert_none();
    });
}

/// A ticket that was never signed cannot be one; every other handle may have been.
fn is_not_found(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::InvalidArgument) && !status.message().is_empty()
}

/// Each command in each RPC that the list does not name for it.
#[test]
fn commands_in_the_wrong_rpc_are_refused() {
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
                mismatches.note(&title, judged(outcome, Allowed::Refusal));
            }
        }
        mismatches.assert_none();
    });
}
