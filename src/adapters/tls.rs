//! TLS for the whole process: rustls on `ring`, the provider that builds with a C compiler alone, and whom to
//! trust.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

/// Installs `ring` as rustls's provider for this process, once. May be called from anywhere, any number of
/// times; a provider that is installed already (by an embedding program or a test) stays.
pub fn ensure_crypto_provider() {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster: then a provider is installed, which is all we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// How to speak TLS to a server whose certificate an authority of the system has signed, or one of `authorities`
/// (PEM).
///
/// # Errors
/// What is wrong with `authorities`, or that there is no authority at all, as a sentence without its end.
pub fn client(authorities: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(authorities.unwrap_or("").as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("it is not a PEM file with certificates ({error})"))?;
    if authorities.is_some() && roots.is_empty() {
        return Err("it holds no certificate (-----BEGIN CERTIFICATE-----)".into());
    }
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
        .map_err(|error| format!("no authority can be trusted ({error})"))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provider_is_there_after_any_number_of_calls() {
        ensure_crypto_provider();
        ensure_crypto_provider();
        assert!(CryptoProvider::get_default().is_some());
    }

    #[test]
    fn authorities_that_are_none_are_told() {
        let fault = |pem| client(Some(pem)).expect_err("must refuse");
        assert_eq!(fault("no certificate"), "it holds no certificate (-----BEGIN CERTIFICATE-----)");
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(fault(broken).starts_with("it is not a PEM file with certificates ("), "{}", fault(broken));
        let empty = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(fault(empty).starts_with("no authority can be trusted ("), "{}", fault(empty));
    }
}
