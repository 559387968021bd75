//! Reads credentials of a request, in the forms that clients use.
//!
//! | form | sent by |
//! |---|---|
//! | `authorization: Basic base64(name:password)` | the handshake of JDBC, ADBC, ODBC and pyarrow; any call |
//! | `authorization: Bearer token` | every call after a handshake; clients with a token |
//! | `auth-token-bin: token` | calls of Flight's first authentication scheme, after its handshake |
//! | `BasicAuth` in the payload of Handshake | the handshake of that scheme |

use arrow_flight::{BasicAuth, HandshakeRequest};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::Message;
use squadron_proto::{Failure, FailureKind};
use tonic::metadata::MetadataMap;

use crate::auth::Credentials;

/// Some clients send base64 without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credentials in the headers; `None` without any.
///
/// # Errors
/// `Unauthenticated` for an authorization header of another form.
pub(super) fn from_headers(headers: &MetadataMap) -> Result<Option<Credentials>, Failure> {
    let Some(value) = headers.get("authorization") else {
        return Ok(from_token_header(headers));
    };
    let value = value.to_str().ok().and_then(|value| value.split_once(' '));
    let credentials = match value {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim())
            .filter(|token| !token.is_empty())
            .map(|token| Credentials::Token(token.to_owned())),
        Some((scheme, encoded)) if scheme.eq_ignore_ascii_case("basic") => parse_basic(encoded.trim()),
        _ => None,
    };
    credentials.map(Some).ok_or_else(|| {
        Failure::new(
            FailureKind::Unauthenticated,
            "the authorization header cannot be read; send `Basic` with base64 of name:password, or \
             `Bearer` with a token",
        )
    })
}

/// The credentials in the payload of a handshake, in Flight's first authentication scheme.
pub(super) fn from_payload(request: &HandshakeRequest) -> Option<Credentials> {
    let BasicAuth { username, password } = BasicAuth::decode(request.payload.as_ref()).ok()?;
    (!username.is_empty()).then_some(Credentials::Password {
        user: username,
        password,
    })
}

fn parse_basic(encoded: &str) -> Option<Credentials> {
    let text = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

/// The token of Flight's first authentication scheme.
fn from_token_header(headers: &MetadataMap) -> Option<Credentials> {
    let token = headers.get_bin("auth-token-bin")?.to_bytes().ok()?;
    let token = String::from_utf8(token.to_vec()).ok()?;
    (!token.is_empty()).then_some(Credentials::Token(token))
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn read(authorization: &str) -> Result<Option<Credentials>, Failure> {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", authorization.parse().unwrap());
        from_headers(&headers)
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    #[test]
    fn headers_are_read_leniently() {
        let token = Some(Credentials::Token("abc".into()));
        for (header, credentials) in [
            ("Bearer abc", token.clone()),
            ("bearer  abc ", token),
            ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", password("Aladdin", "open sesame")),
            ("basic QWxhZGRpbjpvcGVuIHNlc2FtZQ", password("Aladdin", "open sesame")),
            ("Basic dTpwOnE=", password("u", "p:q")),
        ] {
            assert_eq!(read(header), Ok(credentials), "{header}");
        }
        assert_eq!(from_headers(&MetadataMap::new()), Ok(None));
    }

    #[test]
    fn unreadable_authorization_is_unauthenticated() {
        for header in ["Bearer", "Bearer  ", "Basic ?", "Basic dXNlcg==", "Digest x", "abc"] {
            let failure = read(header).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Unauthenticated, "{header}");
        }
    }

    #[test]
    fn first_scheme_credentials_are_read() {
        let mut headers = MetadataMap::new();
        headers.insert_bin("auth-token-bin", MetadataValue::from_bytes(b"abc"));
        let token = Some(Credentials::Token("abc".into()));
        assert_eq!(from_headers(&headers), Ok(token));
        let login = BasicAuth {
            username: "ann".into(),
            password: "pw".into(),
        };
        let request = |payload| HandshakeRequest {
            protocol_version: 0,
            payload,
        };
        assert_eq!(
            from_payload(&request(login.encode_to_vec().into())),
            password("ann", "pw")
        );
        for garbage in [&b""[..], b"\xff\xff"] {
            assert_eq!(from_payload(&request(garbage.into())), None);
        }
    }
}
