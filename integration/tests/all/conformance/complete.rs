//! Checks that the list is complete.

use std::fs;
use std::path::{Path, PathBuf};

use arrow_flight::sql::{Any, Command, SqlInfo};

use super::{Entry, Rpc, action_names, entries};

/// All RPCs; `every_rpc_has_a_row` compares them with the trait of arrow-flight.
const RPCS: [Rpc; 10] = [
    Rpc::Handshake,
    Rpc::ListFlights,
    Rpc::GetFlightInfo,
    Rpc::PollFlightInfo,
    Rpc::GetSchema,
    Rpc::DoGet,
    Rpc::DoPut,
    Rpc::DoExchange,
    Rpc::DoAction,
    Rpc::ListActions,
];

/// The actions that the comments of `Flight.proto` describe; the service takes any name.
const FLIGHT_ACTIONS: [&str; 5] = [
    "CancelFlightInfo",
    "RenewFlightEndpoint",
    "SetSessionOptions",
    "GetSessionOptions",
    "CloseSession",
];

/// RPCs that take any command with a result.
const DESCRIBED: &[Rpc] = &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema];
/// The RPCs of metadata commands: those above, and DoGet.
const LISTED: &[Rpc] = &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema, Rpc::DoGet];
/// The RPCs of commands that run, and that take data.
const RUN: &[Rpc] = &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema, Rpc::DoPut];
const PUT: &[Rpc] = &[Rpc::DoPut];
const GET: &[Rpc] = &[Rpc::DoGet];
const ACT: &[Rpc] = &[Rpc::DoAction];

/// The messages of `FlightSql.proto` in arrow-flight: those of clients, with their RPCs, and those of servers. A
/// message that arrow-flight adds makes this fail to compile.
macro_rules! messages {
    (clients { $($sent:ident in $rpcs:expr;)+ } servers { $($answered:ident)+ }) => {
        const SENT: &[(&str, &[Rpc])] = &[$((stringify!($sent), $rpcs)),+];

        fn is_sent(command: &Command) -> bool {
            match command {
                $(Command::$sent(_))|+ => true,
                $(Command::$answered(_))|+ => false,
                Command::Unknown(_) => false,
            }
        }
    };
}

messages! {
    clients {
    CommandStatementQuery in DESCRIBED;
    CommandStatementSubstraitPlan in RUN;
    CommandStatementUpdate in PUT;
    CommandStatementIngest in PUT;
    CommandPreparedStatementQuery in RUN;
    CommandPreparedStatementUpdate in PUT;
    TicketStatementQuery in GET;
    CommandGetCatalogs in LISTED;
    CommandGetDbSchemas in LISTED;
    CommandGetTables in LISTED;
    CommandGetTableTypes in LISTED;
    CommandGetPrimaryKeys in LISTED;
    CommandGetExportedKeys in LISTED;
    CommandGetImportedKeys in LISTED;
    CommandGetCrossReference in LISTED;
    CommandGetSqlInfo in LISTED;
    CommandGetXdbcTypeInfo in LISTED;
    ActionCreatePreparedStatementRequest in ACT;
    ActionCreatePreparedSubstraitPlanRequest in ACT;
    ActionClosePreparedStatementRequest in ACT;
    ActionBeginTransactionRequest in ACT;
    ActionEndTransactionRequest in ACT;
    ActionBeginSavepointRequest in ACT;
    ActionEndSavepointRequest in ACT;
    ActionCancelQueryRequest in ACT;
    }
    servers {
    ActionCreatePreparedStatementResult
    ActionBeginTransactionResult
    ActionBeginSavepointResult
    ActionCancelQueryResult
    DoPutPreparedStatementResult
    DoPutUpdateResult
    }
}

fn has_row(entries: &[Entry], message: &str, rpc: Rpc) -> bool {
    let mut rows = entries.iter().filter(|entry| entry.message == message);
    rows.any(|entry| entry.rpcs.contains(&rpc))
}

#[test]
fn every_message_rpc_pair_has_row() {
    let entries = entries();
    for (message, rpcs) in SENT {
        for rpc in *rpcs {
            assert!(has_row(&entries, message, *rpc), "{message} in {rpc} has no row");
        }
        let type_url = format!("type.googleapis.com/arrow.flight.protocol.sql.{message}");
        let value = Default::default();
        let command = Command::try_from(Any { type_url, value }).expect("all fields are optional");
        assert!(is_sent(&command), "{message} is not what it seems");
    }
}

#[test]
fn every_row_is_in_the_protocol() {
    for entry in entries().iter().filter(|entry| entry.example.is_some()) {
        let of_flight = entry.action().is_some_and(|name| FLIGHT_ACTIONS.contains(&name));
        let of_sql = SENT.iter().find(|(message, _)| *message == entry.message);
        let title = entry.title();
        assert!(of_flight || of_sql.is_some(), "{title} is no message of the protocol");
        if let Some((_, rpcs)) = of_sql {
            let made_for = |rpc: &Rpc| rpcs.contains(rpc);
            assert!(entry.rpcs.iter().all(made_for), "{title} is not made for these RPCs");
        }
        assert!(!entry.used_by.is_empty(), "{title} does not say who uses it");
    }
}

#[test]
fn every_served_row_has_checks() {
    for entry in entries().iter().filter(|entry| entry.is_served()) {
        assert!(!entry.checks.is_empty(), "{} has no check", entry.title());
    }
    for entry in entries().iter().filter(|entry| !entry.is_served()) {
        let is_tried = entry.example.is_some() || !entry.checks.is_empty();
        assert!(is_tried, "{} is never sent", entry.title());
    }
}

#[test]
fn every_flight_action_has_a_row() {
    let names = action_names();
    for name in FLIGHT_ACTIONS {
        assert!(names.contains(&name), "{name} has no row");
    }
}

#[test]
fn every_rpc_has_a_row() {
    let entries = entries();
    for rpc in RPCS {
        let mut rows = entries.iter().filter(|entry| entry.rpcs.contains(&rpc));
        assert!(rows.next().is_some(), "{rpc} has no row");
    }
    let mut known: Vec<_> = RPCS.iter().map(|rpc| method_name(&rpc.to_string())).collect();
    let mut implemented = implemented_methods();
    known.sort_unstable();
    implemented.sort_unstable();
    assert_eq!(implemented, known, "the trait of arrow-flight has other RPCs");
}

/// `GetFlightInfo` as Rust names it.
fn method_name(rpc: &str) -> String {
    let mut name = String::new();
    for character in rpc.chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(character.to_lowercase());
    }
    name
}

/// The methods of the server's implementation of arrow-flight's trait, which must have all of them to compile.
fn implemented_methods() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/src/flight");
    let files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the front end is there")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    let sources = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("a readable file"));
    for source in sources {
        if let Some((_, rest)) = source.split_once("\nimpl FlightService for ") {
            let (body, _) = rest.split_once("\n}\n").expect("an implementation ends");
            return body
                .lines()
                .filter_map(|line| line.strip_prefix("    async fn "))
                .map(|line| line.split(['(', '<']).next().unwrap_or_default().to_owned())
                .collect();
        }
    }
    panic!("no file of the front end implements FlightService");
}

#[test]
fn every_sql_info_key_is_listed() {
    let served = |key: i32| matches!(key, 0..=11 | 100..=101 | 500..=576);
    for key in 0..10_000 {
        assert_eq!(SqlInfo::try_from(key).is_ok(), served(key), "key {key}");
    }
}
