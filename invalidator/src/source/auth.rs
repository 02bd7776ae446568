//! Authentication: trust, cleartext, MD5 and SCRAM-SHA-256. Pure: the server's question in, our answer out.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::{ConnectOptions, SourceError};

const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// How far SCRAM has come.
enum Scram {
    NotAsked,
    /// Our nonce is sent.
    Begun(ScramSha256),
    /// Our proof is sent; the server's is due.
    Proved(ScramSha256),
    Done,
}

/// A conversation that ends with AuthenticationOk.
pub(super) struct Authentication<'a> {
    options: &'a ConnectOptions,
    scram: Scram,
}

impl<'a> Authentication<'a> {
    pub(super) fn new(options: &'a ConnectOptions) -> Authentication<'a> {
        Authentication { options, scram: Scram::NotAsked }
    }

    /// Answers one Authentication message (its body) into `out`; `true` when the server is content.
    pub(super) fn answer(&mut self, body: &[u8], out: &mut BytesMut) -> Result<bool, SourceError> {
        let Some((method, rest)) = body.split_first_chunk::<4>() else {
            return Err(self.problem("its authentication message is cut off"));
        };
        match (u32::from_be_bytes(*method), std::mem::replace(&mut self.scram, Scram::NotAsked)) {
            (OK, Scram::NotAsked | Scram::Done) => Ok(true),
            // Who does not prove that it knows the password may be anyone.
            (OK, _) => {
                Err(self
                    .problem("it ended SCRAM without a proof that it knows the password; is this the right server?"))
            }
            (CLEARTEXT, Scram::NotAsked) => {
                let password = self.password()?.as_bytes();
                self.encoded(frontend::password_message(password, out))
            }
            (MD5, Scram::NotAsked) => {
                let salt = rest.first_chunk::<4>().ok_or_else(|| self.problem("its MD5 salt is cut off"))?;
                let hash = md5_hash(self.options.user.as_bytes(), self.password()?.as_bytes(), *salt);
                self.encoded(frontend::password_message(hash.as_bytes(), out))
            }
            (SASL, Scram::NotAsked) => {
                if !rest.split(|&byte| byte == 0).any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes()) {
                    return Err(
                        self.problem("it offers no mechanism that is known here; use scram-sha-256 in pg_hba.conf")
                    );
                }
                let scram = ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported());
                let encoded = frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out);
                self.scram = Scram::Begun(scram);
                self.encoded(encoded)
            }
            (SASL_CONTINUE, Scram::Begun(mut scram)) => {
                scram.update(rest).map_err(|e| self.problem(&format!("SCRAM: {e}")))?;
                let encoded = frontend::sasl_response(scram.message(), out);
                self.scram = Scram::Proved(scram);
                self.encoded(encoded)
            }
            (SASL_FINAL, Scram::Proved(mut scram)) => {
                scram.finish(rest).map_err(|e| self.problem(&format!("SCRAM: {e}; is this the right server?")))?;
                self.scram = Scram::Done;
                Ok(false)
            }
            (2 | 7 | 9, _) => {
                Err(self.problem("it asks for Kerberos, GSSAPI or SSPI; use scram-sha-256 in pg_hba.conf"))
            }
            (method, _) => {
                Err(self.problem(&format!("it asks for authentication step {method}, which does not belong here")))
            }
        }
    }

    fn password(&self) -> Result<&'a str, SourceError> {
        let options = self.options;
        options.password.as_deref().ok_or_else(|| {
            self.problem(&format!(
                "it asks for the password of {:?}; put it into PGPASSWORD, the password file or the URL",
                options.user
            ))
        })
    }

    fn encoded(&self, result: std::io::Result<()>) -> Result<bool, SourceError> {
        result.map(|()| false).map_err(|e| self.problem(&format!("the password cannot be sent: {e}")))
    }

    fn problem(&self, problem: &str) -> SourceError {
        SourceError::Authentication { server: self.options.server(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(password: Option<&str>) -> ConnectOptions {
        let mut options = ConnectOptions::parse_with("postgres://ann@h/d?sslmode=disable", |_| None).unwrap();
        options.password = password.map(Into::into);
        options
    }

    fn answer(authentication: &mut Authentication<'_>, body: &[u8]) -> Result<(bool, Vec<u8>), String> {
        let mut out = BytesMut::new();
        let done = authentication.answer(body, &mut out).map_err(|error| {
            assert!(error.is_authentication());
            error.to_string()
        })?;
        Ok((done, out.to_vec()))
    }

    #[test]
    fn trust_and_cleartext() {
        let options = options(Some("secret"));
        let mut authentication = Authentication::new(&options);
        assert_eq!(answer(&mut authentication, b"\0\0\0\x03"), Ok((false, b"p\0\0\0\x0Bsecret\0".to_vec())));
        assert_eq!(answer(&mut authentication, b"\0\0\0\0"), Ok((true, vec![])));
    }

    #[test]
    fn md5() {
        let options = options(Some("secret"));
        // SELECT 'md5' || md5(convert_to(md5('secretann'), 'UTF8') || '\x01020304');
        let expected = b"p\0\0\0\x28md59009ce60b9ca97f1e752376843d1309e\0";
        let (done, sent) = answer(&mut Authentication::new(&options), b"\0\0\0\x05\x01\x02\x03\x04").unwrap();
        assert!(!done);
        assert_eq!(sent, expected, "{}", String::from_utf8_lossy(&sent));
    }

    #[test]
    fn scram_needs_the_servers_proof() {
        let options = options(Some("secret"));
        let mut authentication = Authentication::new(&options);
        let (done, sent) = answer(&mut authentication, b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").unwrap();
        assert!(!done && sent.starts_with(b"p") && sent.windows(6).any(|w| w == b"n,,n=,"));
        let error = answer(&mut authentication, b"\0\0\0\0").unwrap_err();
        assert!(error.contains("without a proof"), "{error}");
        let error = answer(&mut Authentication::new(&options), b"\0\0\0\x0Bx").unwrap_err();
        assert!(error.contains("does not belong here"), "{error}");
        let error = answer(&mut Authentication::new(&options), b"\0\0\0\x0ASCRAM-SHA-1\0\0").unwrap_err();
        assert!(error.contains("mechanism"), "{error}");
    }

    #[test]
    fn says_what_is_missing() {
        let options = options(None);
        for method in [b"\0\0\0\x03".as_slice(), b"\0\0\0\x05salt", b"\0\0\0\x0ASCRAM-SHA-256\0\0"] {
            let error = answer(&mut Authentication::new(&options), method).unwrap_err();
            assert!(error.contains("PGPASSWORD") && error.contains("ann"), "{error}");
        }
        for method in [b"".as_slice(), b"\0\0\0", b"\0\0\0\x05", b"\0\0\0\x07", b"\0\0\0\x63"] {
            answer(&mut Authentication::new(&options), method).unwrap_err();
        }
    }
}
