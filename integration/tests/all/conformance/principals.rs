//! What one principal was given is not there for another one, whichever message asks for it.

use std::io::Write;

use squadron_integration::cluster::cluster;
use tempfile::NamedTempFile;
use tonic::{Code, Status};

use super::wire::{Answer, speaking_as};
use super::world::World;
use super::{Entry, Rpc, entries};
use crate::support::{Mismatches, bounded, minutes};

const ANN: &str = "a-token-that-only-ann-has";
const BOB: &str = "a-token-that-only-bob-has";

async fn guarded(tokens: &NamedTempFile) -> World {
    let cluster = cluster()
        .slots(2)
        .tpch(0.01)
        .serve_arg("--tokens")
        .serve_arg(tokens.path().display().to_string());
    World::of(cluster.start().await).await
}

#[test]
fn handles_tickets_and_queries_belong_to_their_principal() {
    bounded(minutes(5), async {
        let mut tokens = NamedTempFile::new().expect("there is a temporary folder");
        writeln!(tokens, "ann:{ANN}\nbob:{BOB}").expect("it takes text");
        let world = guarded(&tokens).await;
        let mut mismatches = Mismatches::default();
        for entry in entries().iter().filter(|entry| entry.is_owned) {
            for rpc in entry.rpcs {
                let outcome = Box::pin(stolen(&world, entry, *rpc)).await;
                mismatches.note(&format!("{} in {rpc}", entry.title()), outcome);
            }
        }
        mismatches.assert_none();
    });
}

/// What Ann was given, first in the hands of nobody and of Bob, then in her own.
async fn stolen(world: &World, entry: &Entry, rpc: Rpc) -> Result<(), String> {
    let example = entry.example.expect("what is owned was given");
    let message = speaking_as(ANN, example(world)).await;
    let ask = || world.send(entry.request(rpc, message.clone()));
    refused(ask().await, Code::Unauthenticated, "nobody")?;
    refused(speaking_as(BOB, ask()).await, Code::NotFound, "bob")?;
    let own = speaking_as(ANN, ask()).await;
    own.map(drop)
        .map_err(|status| format!("ann herself is refused: {status}"))
}

fn refused(outcome: Result<Answer, Status>, code: Code, who: &str) -> Result<(), String> {
    match outcome {
        Ok(_) => Err(format!("{who} is answered")),
        Err(status) if status.code() == code => Ok(()),
        Err(status) => Err(format!("{who}: {status}")),
    }
}
