//! Checks that every entry behaves as its row says.

use std::panic::AssertUnwindSafe;

use arrow::datatypes::Schema;
use arrow_flight::{FlightDescriptor, FlightInfo, SchemaResult};
use futures::FutureExt;
use tonic::Code;

use super::wire::{Request, only};
use super::world::World;
use super::{Entry, Rpc, Standing, entries};
use crate::support::{Mismatches, bounded, minutes};

#[test]
fn every_entry_behaves_as_listed() {
    bounded(minutes(8), async {
        let world = World::start().await;
        let mut mismatches = Mismatches::default();
        for entry in entries() {
            let title = entry.title();
            for rpc in entry.rpcs {
                let what = format!("{title}: the example in {rpc}");
                mismatches.note(&what, catch_panic(check_example(&world, &entry, *rpc)).await);
            }
            if entry.is_served() && entry.example.is_some() {
                let what = format!("{title}: one schema");
                mismatches.note(&what, catch_panic(check_one_schema(&world, &entry)).await);
            }
            for (name, check) in &entry.checks {
                mismatches.note(&format!("{title}: {name}"), catch_panic(check(&world)).await);
            }
        }
        mismatches.assert_none();
    });
}

/// Runs `work`; gives the message of its panic as an error.
async fn catch_panic(work: impl Future<Output = ()>) -> Result<(), String> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        text.unwrap_or_else(|| "a panic without a message".into())
    })
}

/// Sends the example of an entry, which must be answered, or refused with the sentence of its row.
async fn check_example(world: &World, entry: &Entry, rpc: Rpc) {
    let Some(example) = entry.example else {
        return;
    };
    let request = entry.request(rpc, example(world).await);
    match (entry.standing, world.send(request).await) {
        (Standing::Served(_), Ok(_)) => (),
        (Standing::Served(_), Err(status)) => panic!("refused: {status}"),
        (Standing::Refused(..), Ok(_)) => panic!("answered, although the row says refused"),
        (Standing::Refused(code, why), Err(status)) => {
            assert_eq!(status.code(), code, "{status}");
            assert!(
                status.message().contains(why),
                "the row says {why:?}, the status {status}"
            );
            let named = entry.action().unwrap_or(entry.message);
            assert!(status.message().contains(named), "it names {named}: {status}");
            assert_ne!(status.code(), Code::Internal);
        }
    }
}

/// Checks that GetFlightInfo, the last poll, GetSchema and the stream have one schema, and that the FlightInfo has the
/// descriptor of the request and one endpoint without a location.
async fn check_one_schema(world: &World, entry: &Entry) {
    if !entry.rpcs.contains(&Rpc::GetFlightInfo) {
        return;
    }
    let example = entry.example.expect("the caller looked");
    let message = example(world).await;
    let descriptor = FlightDescriptor::new_cmd(message);
    let info = world.send(Request::Info(descriptor.clone())).await;
    let info: FlightInfo = only(&info.expect("GetFlightInfo answers"));
    assert_eq!(info.flight_descriptor, Some(descriptor.clone()));
    assert_eq!(info.endpoint.len(), 1, "one endpoint, unless asked for more");
    assert!(info.endpoint[0].location.is_empty(), "fetched where it was asked");
    let promised = info.clone().try_decode_schema().expect("a schema");
    if entry.rpcs.contains(&Rpc::PollFlightInfo) {
        let polled = world.poll_to_end(descriptor.clone()).await;
        let polled = polled.try_decode_schema().expect("a schema");
        assert_eq!(polled, promised, "PollFlightInfo and FlightInfo");
    }
    if entry.rpcs.contains(&Rpc::GetSchema) {
        let answer = world.send(Request::Schema(descriptor)).await;
        let answer: SchemaResult = only(&answer.expect("GetSchema answers"));
        let schema = Schema::try_from(&answer).expect("a schema");
        assert_eq!(schema, promised, "GetSchema and FlightInfo");
    }
    let (streamed, _) = world.client.fetch(info).await.expect("DoGet answers");
    assert_eq!(*streamed, promised, "the stream and FlightInfo");
}
