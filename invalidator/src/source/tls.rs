//! TLS with PostgreSQL, in libpq's terms: what `sslmode` promises is what is verified.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::SourceError;
use super::options::{ConnectOptions, TlsMode};

/// The client's side of the handshake for these options.
pub(super) fn client_config(options: &ConnectOptions) -> Result<ClientConfig, SourceError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| SourceError::Tls(e.to_string()))?;
    let verify = match options.tls {
        TlsMode::VerifyFull => Verify::Host,
        TlsMode::VerifyCa => Verify::Authority,
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => Verify::Nothing,
    };
    if matches!(verify, Verify::Host) {
        return Ok(builder.with_root_certificates(roots(options)?).with_no_client_auth());
    }
    let inner = match verify {
        Verify::Authority => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(options)?), provider.clone())
                .build()
                .map_err(|e| SourceError::Tls(e.to_string()))?,
        ),
        _ => None,
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Relaxed { inner, provider }))
        .with_no_client_auth())
}

enum Verify {
    Nothing,
    Authority,
    Host,
}

/// The authorities that are trusted: those of `sslrootcert`, otherwise the system's.
fn roots(options: &ConnectOptions) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    match &options.root_certificate {
        Some(path) => {
            let error = |e: &dyn std::fmt::Display| SourceError::Tls(format!("sslrootcert {}: {e}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| error(&e))? {
                roots.add(certificate.map_err(|e| error(&e))?).map_err(|e| error(&e))?;
            }
            if roots.is_empty() {
                return Err(error(&"the file holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(SourceError::Tls(
                    "the system has no root certificates; name the authority's file with sslrootcert".into(),
                ));
            }
        }
    }
    Ok(roots)
}

/// `sslmode=require` encrypts and verifies nothing; `verify-ca` verifies the authority and not the name.
#[derive(Debug)]
struct Relaxed {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Relaxed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
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
