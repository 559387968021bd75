//! Sending to one worker without ever waiting for it.
//!
//! ```text
//! send ──> channel (bounded) ──> worker            as long as there is room
//!   └────> backlog (bounded) ──pump──> channel     while there is none, in order
//! ```
//!
//! A worker that takes nothing for too long, or leaves too much in its backlog, is unreachable; the caller then counts
//! it as lost.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use squadron_proto::control::ServerMessage;
use squadron_proto::{Malformed, wire::control as wire};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tonic::Status;

/// Why a worker cannot be sent to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Its end of the connection is closed.
    #[error("its connection is closed")]
    Gone,
    /// It took nothing for too long.
    #[error("it took no message for {0:?}")]
    Stalled(Duration),
    /// Too many messages wait for it.
    #[error("{0} messages wait for it")]
    Full(usize),
    /// The message cannot leave this process.
    #[error("it cannot be sent a message: {0}")]
    NotSendable(&'static str),
}

impl From<Malformed> for Unreachable {
    fn from(malformed: Malformed) -> Self {
        Self::NotSendable(malformed.what)
    }
}

/// What one connection may hold back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How many messages may wait in the backlog.
    pub(super) backlog_messages: usize,
    /// How long the worker may take nothing while a backlog waits.
    pub(super) stall_timeout: Duration,
}

/// The way to one worker.
#[derive(Debug)]
pub(super) enum Transport {
    /// Same process: the messages themselves.
    InProcess(Outbox<ServerMessage>),
    /// A control stream: their wire form.
    Remote(Outbox<Result<wire::ServerMessage, Status>>),
}

impl Transport {
    pub(super) fn is_remote(&self) -> bool {
        match self {
            Self::InProcess(_) => false,
            Self::Remote(_) => true,
        }
    }

    /// Hands a message over, in order, without waiting.
    pub(super) fn send(&self, message: ServerMessage) -> Result<(), Unreachable> {
        match self {
            Self::InProcess(outbox) => outbox.send(message),
            Self::Remote(outbox) => outbox.send(Ok(message.try_into()?)),
        }
    }

    /// Moves the backlog along; ends when the worker has become unreachable.
    pub(super) async fn pump(&self) -> Unreachable {
        match self {
            Self::InProcess(outbox) => outbox.pump().await,
            Self::Remote(outbox) => outbox.pump().await,
        }
    }
}

/// A bounded channel whose sender never waits, with a bounded backlog behind it.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    channel: mpsc::Sender<T>,
    backlog: Mutex<VecDeque<T>>,
    filled: Notify,
    patience: Patience,
}

impl<T: Send> Outbox<T> {
    pub(super) fn new(channel: mpsc::Sender<T>, patience: Patience) -> Self {
        Self {
            channel,
            backlog: Mutex::default(),
            filled: Notify::new(),
            patience,
        }
    }

    fn send(&self, message: T) -> Result<(), Unreachable> {
        let mut backlog = self.backlog();
        let message = if backlog.is_empty() {
            match self.channel.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(Unreachable::Gone),
                Err(TrySendError::Full(message)) => {
                    self.filled.notify_one();
                    message
                }
            }
        } else {
            message
        };
        if backlog.len() >= self.patience.backlog_messages {
            return Err(Unreachable::Full(backlog.len()));
        }
        backlog.push_back(message);
        Ok(())
    }

    async fn pump(&self) -> Unreachable {
        loop {
            tokio::select! {
                () = self.filled.notified() => {}
                () = self.channel.closed() => return Unreachable::Gone,
            }
            if let Err(unreachable) = self.empty_backlog().await {
                return unreachable;
            }
        }
    }

    /// The last message leaves the backlog and enters the channel under one lock, so none sent later can overtake it.
    async fn empty_backlog(&self) -> Result<(), Unreachable> {
        let stall_timeout = self.patience.stall_timeout;
        loop {
            let permit = tokio::time::timeout(stall_timeout, self.channel.reserve())
                .await
                .map_err(|_| Unreachable::Stalled(stall_timeout))?
                .map_err(|_| Unreachable::Gone)?;
            let mut backlog = self.backlog();
            if let Some(message) = backlog.pop_front() {
                permit.send(message);
            }
            if backlog.is_empty() {
                return Ok(());
            }
        }
    }

    fn backlog(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        backlog_messages: 8,
        stall_timeout: Duration::from_millis(50),
    };

    /// What a worker received, as the sequence numbers of acknowledgements.
    trait Arrived {
        fn sequence(self) -> u64;
    }

    impl Arrived for ServerMessage {
        fn sequence(self) -> u64 {
            match self {
                Self::Acknowledge(sequence) => sequence,
                other => panic!("{other:?} was never sent"),
            }
        }
    }

    impl Arrived for Result<wire::ServerMessage, Status> {
        fn sequence(self) -> u64 {
            ServerMessage::try_from(self.unwrap()).unwrap().sequence()
        }
    }

    async fn conforms<T: Arrived>(transport: Transport, mut worker: mpsc::Receiver<T>) {
        let pumped = async {
            for sequence in 0..6 {
                transport.send(ServerMessage::Acknowledge(sequence)).unwrap();
            }
            for expected in 0..6 {
                assert_eq!(worker.recv().await.unwrap().sequence(), expected, "in order");
            }
        };
        tokio::select! {
            unreachable = transport.pump() => panic!("{unreachable}"),
            () = pumped => {}
        }
        for sequence in 0..10 {
            transport.send(ServerMessage::Acknowledge(sequence)).unwrap();
        }
        assert_eq!(transport.send(ServerMessage::Drain), Err(Unreachable::Full(8)));
        assert_eq!(
            transport.pump().await,
            Unreachable::Stalled(PATIENCE.stall_timeout),
            "a worker that takes nothing is unreachable"
        );
        drop(worker);
        assert_eq!(transport.pump().await, Unreachable::Gone);
    }

    #[tokio::test]
    async fn both_transports_keep_order_and_give_up() {
        let (sender, receiver) = mpsc::channel(2);
        conforms(Transport::InProcess(Outbox::new(sender, PATIENCE)), receiver).await;
        let (sender, receiver) = mpsc::channel(2);
        conforms(Transport::Remote(Outbox::new(sender, PATIENCE)), receiver).await;
    }
}
