//! The scheduling policies to compare: the flag, and one server for each policy.

use clap::Args;
use serde::Serialize;
use squadron_scheduler::Policy;

use crate::connection::{self, Connection};
use crate::system::{System, SystemArgs};
use crate::{Result, tables};

/// The policies to compare.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct PolicyArgs {
    /// The policies to compare, each with the same arrivals.
    #[arg(
        long,
        value_name = "POLICY,..",
        value_delimiter = ',',
        default_value = "stride,fair,fifo",
        value_parser = parse_policy
    )]
    #[serde(serialize_with = "serialize_policies")]
    pub(super) policies: Vec<Policy>,
}

fn parse_policy(text: &str) -> std::result::Result<Policy, String> {
    text.parse()
}

fn serialize_policies<S: serde::Serializer>(
    policies: &[Policy],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.iter().map(ToString::to_string))
}

/// A server that shares its workers by one policy.
pub(super) struct Contender {
    pub(super) policy: Policy,
    pub(super) system: System,
    /// For statements that run one at a time.
    pub(super) connection: Connection,
}

impl PolicyArgs {
    /// Starts a server with the TPC-H tables for each policy. All servers run until the end; all but the measured one
    /// are idle.
    pub(super) async fn start(&self, system: &SystemArgs, scale: f64) -> Result<Vec<Contender>> {
        if system.is_external() {
            return Err("a server is started for each policy; leave out --server".into());
        }
        tables::ensure_tpch(scale, system.cache_dir.as_deref()).await?;
        let mut contenders = Vec::with_capacity(self.policies.len());
        for &policy in &self.policies {
            let tpch = ["--tpch".to_owned(), scale.to_string()];
            let arguments = [&tpch[..], &["--policy".to_owned(), policy.to_string()]].concat();
            let system = system.start(&arguments).await?;
            contenders.push(Contender {
                policy,
                connection: connection::connect(&system.url).await?,
                system,
            });
        }
        Ok(contenders)
    }
}
