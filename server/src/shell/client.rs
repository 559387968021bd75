//! The shell's Flight SQL client: one connection, logged in once, that keeps the session's cookies.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, CancelFlightInfoRequest, FlightInfo, HandshakeRequest, Ticket};
use futures::TryStreamExt;
use prost::Message;
use squadron_shuffle::Trust;
use squadron_shuffle::net::tls;
use tonic::metadata::{Ascii, Binary, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Streaming};

use super::address::Address;
use super::error::{Error, root_cause};
use super::poll_support::PollSupport;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a request to end a query or session may take. The server also notices the end of the stream or connection.
const ACTION_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest message accepted from a server: one row may be as large.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// How the user logs in.
#[derive(Debug, Clone)]
pub(super) enum Login {
    /// Without credentials.
    None,
    /// A name and a password, exchanged for a token in a handshake.
    Password {
        /// `--user`.
        user: String,
        /// `--password`.
        password: String,
    },
    /// `--token`, sent as it is.
    Token(String),
}

/// A connection to a server. Clones share it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) flight: FlightServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    cookies: BTreeMap<String, String>,
    pub(super) poll_support: PollSupport,
}

impl Client {
    /// Dials `address` and logs in.
    pub(super) async fn connect(address: &Address, trust: &Trust, login: &Login) -> Result<Self, Error> {
        let unreachable = |error: tonic::transport::Error| Error::Connect {
            address: address.clone(),
            reason: tls::explain(root_cause(&error)),
        };
        let endpoint = Endpoint::from_shared(address.http_uri())
            .map_err(unreachable)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_while_idle(true);
        let endpoint = trust.secure(endpoint).map_err(unreachable)?;
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let flight = FlightServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let mut client = Self::new(flight);
        client.log_in(login).await?;
        Ok(client)
    }

    /// A client that has not logged in.
    pub(super) fn new(flight: FlightServiceClient<Channel>) -> Self {
        Self {
            flight,
            authorization: None,
            cookies: BTreeMap::new(),
            poll_support: PollSupport::default(),
        }
    }

    /// Fetches the rows of a ticket. Dropping the stream cancels the rest.
    pub(super) async fn fetch(&mut self, ticket: Ticket) -> Result<FlightRecordBatchStream, Error> {
        let response = self.flight.do_get(self.request(ticket)).await?;
        Ok(FlightRecordBatchStream::new_from_flight_data(
            response.into_inner().map_err(FlightError::from),
        ))
    }

    /// Asks the server to stop a query. Waits for at most [`ACTION_TIMEOUT`].
    pub(super) async fn cancel(&mut self, info: FlightInfo) {
        self.send_action("CancelFlightInfo", CancelFlightInfoRequest::new(info).encode_to_vec())
            .await;
    }

    /// Ends the session, if the server opened one.
    pub(super) async fn close(&mut self) {
        if self.authorization.is_some() || !self.cookies.is_empty() {
            // CloseSessionRequest has no fields.
            self.send_action("CloseSession", Vec::new()).await;
        }
    }

    async fn send_action(&mut self, action: &str, body: Vec<u8>) {
        let request = self.request(Action::new(action, body));
        let answered = async {
            let mut answers = self.flight.do_action(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        };
        if let Ok(Err(status)) = tokio::time::timeout(ACTION_TIMEOUT, answered).await {
            tracing::debug!(action, error = %status.message(), "action not done");
        }
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Error> {
        match login {
            Login::None => Ok(()),
            Login::Token(token) => {
                self.authorization = Some(parse_header(&format!("Bearer {token}"))?);
                Ok(())
            }
            Login::Password { user, password } => self.handshake(user, password).await,
        }
    }

    /// Sends RFC 7617 basic credentials. The answer is a bearer token in the headers or, of some servers, the payload.
    async fn handshake(&mut self, user: &str, password: &str) -> Result<(), Error> {
        self.authorization = Some(basic_header(user, password)?);
        let hello = futures::stream::once(std::future::ready(HandshakeRequest::default()));
        let response: Response<Streaming<_>> = self.flight.handshake(self.request(hello)).await?;
        self.remember(response.metadata());
        let bearer = response.metadata().get("authorization").cloned();
        let payload = response
            .into_inner()
            .message()
            .await?
            .map(|answer| answer.payload)
            .unwrap_or_default();
        self.authorization = match bearer {
            Some(bearer) => Some(bearer),
            None if payload.is_empty() => self.authorization.take(),
            None => Some(parse_header(&format!("Bearer {}", String::from_utf8_lossy(&payload)))?),
        };
        Ok(())
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            if let Ok(cookies) = cookies.join("; ").parse() {
                request.metadata_mut().insert("cookie", cookies);
            }
        }
        request
    }

    pub(super) fn remember(&mut self, metadata: &MetadataMap) {
        for cookie in metadata
            .get_all("set-cookie")
            .iter()
            .filter_map(|value| value.to_str().ok())
        {
            let pair = cookie.split(';').next().unwrap_or(cookie);
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
}

fn parse_header(text: &str) -> Result<MetadataValue<Ascii>, Error> {
    text.parse()
        .map_err(|_| Error::Usage("--token may hold visible ASCII characters only".to_owned()))
}

fn basic_header(user: &str, password: &str) -> Result<MetadataValue<Ascii>, Error> {
    // Binary metadata is encoded as base64 without padding.
    let encoded = MetadataValue::<Binary>::from_bytes(format!("{user}:{password}").as_bytes());
    let encoded = String::from_utf8_lossy(encoded.as_encoded_bytes()).into_owned();
    let padding = "=".repeat((4 - encoded.len() % 4) % 4);
    parse_header(&format!("Basic {encoded}{padding}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_header_matches_rfc_7617() {
        assert_eq!(
            basic_header("Aladdin", "open sesame").unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(basic_header("test", "123\u{a3}").unwrap(), "Basic dGVzdDoxMjPCow==");
    }

    #[test]
    fn token_with_line_break_is_refused() {
        assert!(parse_header("Bearer a\nb").is_err());
    }

    #[tokio::test]
    async fn received_cookies_are_sent_back() {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let mut client = Client::new(FlightServiceClient::new(channel));
        let mut metadata = MetadataMap::new();
        metadata.append("set-cookie", "session=abc=; Path=/; HttpOnly".parse().unwrap());
        metadata.append("set-cookie", "other=1".parse().unwrap());
        client.remember(&metadata);
        assert_eq!(
            client.request(()).metadata().get("cookie").unwrap(),
            "other=1; session=abc="
        );
    }

    #[tokio::test]
    async fn unreachable_server_error_names_address() {
        let address = Address::new(&url::Url::parse("http://127.0.0.1:1").unwrap());
        let error = Client::connect(&address, &Trust::public(), &Login::None)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.starts_with("cannot reach a server at grpc://127.0.0.1:1 ("),
            "{error}"
        );
        assert!(error.contains("refused"), "{error}");
    }
}
