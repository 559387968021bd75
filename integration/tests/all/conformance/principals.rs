//! Objects of one principal cannot be reached by another, with any message.

use std::io::Write;

use squadron_integration::cluster::cluster;
use tempfile::NamedTempFile;
use tonic::{Code, Status};

use super::wire::{Answer, with_token};
use super::world::World;
use super::{Entry, Rpc, entries};
use crate::support::{Mismatches, bounded, minutes};

const ANN: &str = "a-token-that-only-ann-has";
const BOB: &str = "a-token-that-only-bob-has";

async fn start_guarded(tokens: &NamedTempFile) -> World {
    let cluster = cluster()
        .slots(2)
        .tpch(0.01)
        .serve_arg("--tokens")
        .serve_arg(tokens.path().display().to_string());
    World::of(cluster.start().await).await
}

#[test]
fn owned_objects_are_private_to_principal() {
    bounded(minutes(5), async {
        let mut tokens = NamedTempFile::new().expect("there is a temporary folder");
        writeln!(tokens, "ann:{ANN}\nbob:{BOB}").expect("it takes text");
        let world = start_guarded(&tokens).await;
        let mut mismatches = Mismatches::default();
        for entry in entries().iter().filter(|entry| entry.is_owned) {
            for rpc in entry.rpcs {
                let outcome = Box::pin(check_ownership(&world, entry, *rpc)).await;
                mismatches.note(&format!("{} in {rpc}", entry.title()), outcome);
            }
        }
        mismatches.assert_none();
    });
}

/// Uses an object of Ann without credentials, as Bob, and as Ann; only Ann may.
async fn check_ownership(world: &World, entry: &Entry, rpc: Rpc) -> Result<(), String> {
    let example = entry.example.expect("an owned entry has an example");
    let message = with_token(ANN, example(world)).await;
    let ask = || world.send(entry.request(rpc, message.clone()));
    check_refused(ask().await, Code::Unauthenticated, "nobody")?;
    check_refused(with_token(BOB, ask()).await, Code::NotFound, "bob")?;
    let own = with_token(ANN, ask()).await;
    own.map(drop)
        .map_err(|status| format!("ann herself is refused: {status}"))
}

fn check_refused(outcome: Result<Answer, Status>, code: Code, caller: &str) -> Result<(), String> {
    match outcome {
        Ok(_) => Err(format!("{caller} is answered")),
        Err(status) if status.code() == code => Ok(()),
        Err(status) => Err(format!("{caller}: {status}")),
    }
}
