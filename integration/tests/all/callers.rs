//! Clients with credentials, at the level of single calls, and the files of users, tokens and certificates for the
//! server.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{Any, CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, Ticket};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use squadron_integration::client::Client;
use squadron_integration::process::squadron;
use tempfile::TempDir;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// The password of `ann`.
pub(crate) const PASSWORD: &str = "correct horse: battery";
/// The token of `bot`.
pub(crate) const TOKEN: &str = "a-static-token-of-bot";

/// Files for `serve`; dropping this value removes them.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("squadron-auth-").expect("there is a temporary folder");
        Self { folder }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("it takes files");
        path
    }

    /// `ann` and `bob` with the same password, made with the product's own command.
    pub(crate) fn users(&self) -> PathBuf {
        let secret = self.write("password", PASSWORD);
        let hash = || {
            let made = run(&["hash-password", "--password", &format!("@{}", secret.display())]);
            String::from_utf8(made.stdout).expect("a hash is text")
        };
        self.write("users", &format!("# people\nann:{}bob:{}", hash(), hash()))
    }

    /// The token of `bot`.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.write("tokens", &format!("bot:{TOKEN}\n"))
    }

    /// A certificate authority, and a certificate for this machine with its key.
    pub(crate) fn certificates(&self) -> Certificates {
        let authority_key = KeyPair::generate().expect("a key can be made");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are fine");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // The authority needs another name than its certificates, which OpenSSL would take for self-signed otherwise.
        let name = &mut authority.distinguished_name;
        name.push(DnType::CommonName, "authority of the tests");
        let authority_pem = authority.self_signed(&authority_key).expect("it signs").pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key can be made");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).expect("names are fine");
        let certificate = certificate.signed_by(&key, &issuer).expect("it signs");
        Certificates {
            authority: self.write("ca.pem", &authority_pem),
            certificate: self.write("cert.pem", &certificate.pem()),
            key: self.write("key.pem", &key.serialize_pem()),
        }
    }
}

/// PEM files.
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs `squadron` to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(squadron());
    command.args(arguments).stdin(std::process::Stdio::null());
    command.output().expect("it starts")
}

/// A connection whose calls all have the same headers.
#[derive(Clone)]
pub(crate) struct Caller {
    flight: FlightServiceClient<Channel>,
    headers: Vec<(String, String)>,
}

impl Caller {
    /// Opens a connection without headers.
    pub(crate) async fn connect(url: &str) -> Self {
        Self {
            flight: Client::connect(url).await.flight(),
            headers: Vec::new(),
        }
    }

    /// The same connection with one more header.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut caller = self.clone();
        caller.headers.push((name.to_owned(), value.to_owned()));
        caller
    }

    /// The same connection with a bearer token.
    pub(crate) fn bearer(&self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// The same connection with name and password.
    pub(crate) fn basic(&self, user: &str, password: &str) -> Self {
        self.with("authorization", &basic(user, password))
    }

    pub(crate) fn flight(&self) -> FlightServiceClient<Channel> {
        self.flight.clone()
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            let name: AsciiMetadataKey = name.parse().expect("a header's name");
            let value = value.parse().expect("a header's value");
            request.metadata_mut().append(name, value);
        }
        request
    }

    /// Runs a handshake; gives the answer's headers and payload.
    pub(crate) async fn handshake(&self, payload: Vec<u8>) -> Result<(MetadataMap, Vec<u8>), Status> {
        let hello = HandshakeRequest {
            protocol_version: 0,
            payload: payload.into(),
        };
        let request = self.request(stream::iter([hello]));
        let answer: Response<_> = self.flight().handshake(request).await?;
        let headers = answer.metadata().clone();
        let payload = answer.into_inner().message().await?;
        Ok((headers, payload.unwrap_or_default().payload.to_vec()))
    }

    /// Runs a handshake; gives the bearer token of the answer.
    pub(crate) async fn log_in(&self) -> Result<String, Status> {
        let (headers, payload) = self.handshake(Vec::new()).await?;
        let bearer = headers.get("authorization").expect("a token is answered");
        let bearer = bearer.to_str().expect("it is text");
        let token = bearer.strip_prefix("Bearer ").expect("it is a bearer token");
        assert_eq!(payload, token.as_bytes(), "payload and header are the same");
        Ok(token.to_owned())
    }

    pub(crate) async fn info(&self, sql: &str) -> Result<FlightInfo, Status> {
        let request = self.request(statement(sql));
        Ok(self.flight().get_flight_info(request).await?.into_inner())
    }

    /// Fetches all messages of the rows of a ticket.
    pub(crate) async fn get(&self, ticket: Ticket) -> Result<Vec<FlightData>, Status> {
        let frames = self.flight().do_get(self.request(ticket)).await?;
        frames.into_inner().try_collect().await
    }

    /// Runs a statement; gives the last column of the first row as text.
    pub(crate) async fn value(&self, sql: &str) -> Result<String, Status> {
        let info = self.info(sql).await?;
        let ticket = squadron_integration::client::ticket(&info);
        let frames = self.get(ticket).await?;
        let batches: Vec<_> =
            arrow_flight::decode::FlightRecordBatchStream::new_from_flight_data(stream::iter(frames).map(Ok))
                .try_collect()
                .await
                .expect("rows are rows");
        let first = batches.iter().find(|batch| batch.num_rows() > 0);
        Ok(first.map_or_else(String::new, |batch| {
            let column = batch.columns().last().expect("there is a column");
            arrow::util::display::array_value_to_string(column, 0).expect("it can be shown")
        }))
    }

    /// Runs an action; gives its first result.
    pub(crate) async fn act(&self, name: &str, body: Vec<u8>) -> Result<Vec<u8>, Status> {
        let request = self.request(Action::new(name, body));
        let mut results = self.flight().do_action(request).await?.into_inner();
        let result = results.message().await?;
        Ok(result.unwrap_or_default().body.to_vec())
    }

    /// Prepares a statement; gives its handle.
    pub(crate) async fn prepare(&self, sql: &str) -> Result<bytes::Bytes, Status> {
        let request = arrow_flight::sql::ActionCreatePreparedStatementRequest {
            query: sql.into(),
            transaction_id: None,
        };
        let body = request.as_any().encode_to_vec();
        let result = self.act("CreatePreparedStatement", body).await?;
        let any = Any::decode(result.as_slice()).expect("the answer is an Any");
        let result: arrow_flight::sql::ActionCreatePreparedStatementResult =
            any.unpack().expect("it can be read").expect("and is a handle");
        Ok(result.prepared_statement_handle)
    }
}

/// The descriptor of a statement.
pub(crate) fn statement(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

/// The header of basic authentication (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    use base64::Engine;
    let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}
