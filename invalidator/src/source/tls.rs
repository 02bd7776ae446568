//! TLS with PostgreSQL, in libpq's terms: what `sslmode` promises is what is verified.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::SourceError;
use super::options::{ConnectOptions, TlsMode};

/// The client's side of the handshake for these options.
pub(super) fn client_config(options: &ConnectOptions) -> Result<ClientConfig, SourceError> {
    let unusable = |e: &dyn Display| SourceError::Tls(e.to_string());
    let provider = Arc::new(ring::default_provider());
    let authorities = match options.tls {
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let certificates = trusted(options)?;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|e| unusable(&e))?;
            Some(Authorities { inner, certificates, check_name: options.tls == TlsMode::VerifyFull })
        }
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => None,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { authorities, provider }));
    match &options.client_certificate {
        Some((certificate, key)) => {
            let chain = certificates("sslcert", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| in_file("sslkey", key, &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| unusable(&e))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The certificates of those who are trusted: `sslrootcert`'s, otherwise the system's.
fn trusted(options: &ConnectOptions) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    match &options.root_certificate {
        Some(path) => certificates("sslrootcert", path),
        None => match rustls_native_certs::load_native_certs().certs {
            none if none.is_empty() => Err(SourceError::Tls(
                "the system has no root certificates; name the authority's file with sslrootcert".into(),
            )),
            found => Ok(found),
        },
    }
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(none) if none.is_empty() => Err(in_file(setting, path, &"the file holds no PEM certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(in_file(setting, path, &error)),
    }
}

fn in_file(setting: &str, path: &Path, problem: &dyn Display) -> SourceError {
    SourceError::Tls(format!("{setting} {}: {problem}", path.display()))
}

/// What a failed handshake means: a certificate that will be no better next time, or a broken connection.
pub(super) fn handshake_error(options: &ConnectOptions, error: io::Error) -> SourceError {
    let server = options.server();
    let Some(reason) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return SourceError::Io { server, source: error };
    };
    let remedy = match reason {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; name the file with its authority's certificate in sslrootcert"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "; connect by a name in the certificate's subjectAltName (the common name does not count), or use sslmode=verify-ca"
        }
        _ => "",
    };
    SourceError::Tls(format!("handshake with {server}: {reason}{remedy}"))
}

/// `verify-ca` verifies the authority, `verify-full` the name as well, anything less encrypts for whoever is at the other end.
#[derive(Debug)]
struct Verifier {
    authorities: Option<Authorities>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Authorities {
    inner: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = authorities.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last: everything else was in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !authorities.check_name => Ok(ServerCertVerified::assertion()),
            // The self-signed certificate that `openssl req -x509` makes is an authority's, and no server's in the eyes of WebPKI
            // (`CaUsedAsEndEntity`, found after the dates were). When it is the very one that was called trusted, libpq takes it.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if authorities.certificates.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) =>
            {
                if authorities.check_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
