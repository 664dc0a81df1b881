//! The one TLS provider of the process: rustls on `ring`, which builds with a C compiler alone.
//!
//! Whoever opens a TLS connection calls [`ensure_crypto_provider`] first. Nothing else is decided here:
//! roots, names and versions are each client's own.

/// Installs `ring` as rustls's provider for this process, once. May be called from anywhere, any number of
/// times; a provider that is installed already (by an embedding program or a test) stays.
pub fn ensure_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster: then a provider is installed, which is all we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_provider_is_there_after_any_number_of_calls() {
        super::ensure_crypto_provider();
        super::ensure_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
