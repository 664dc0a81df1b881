//! A broker that is reached by TLS: a proxy that ends TLS stands before a real RabbitMQ.

use hipchat_notifier::adapters::rabbitmq::check;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::*;
use crate::support::authority::Authority;

/// Ends TLS, and goes on to the broker by TCP.
struct Terminator {
    address: String,
    accepting: AbortHandle,
}

impl Terminator {
    /// With a certificate for `name`.
    async fn before(broker: &Broker, authority: &Authority, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (acceptor, upstream) = (authority.acceptor(name), broker.host_and_port());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                tokio::spawn(async move {
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut broker = TcpStream::connect(upstream).await.expect("the broker listens");
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
                });
            }
        });
        Self { address, accepting: accepting.abort_handle() }
    }

    /// By TLS, trusting this authority.
    fn options(&self, broker: &Broker, authorities_pem: Option<String>) -> BrokerOptions {
        let url = broker.url_by(&self.address).replacen("amqp://", "amqps://", 1);
        BrokerOptions { authorities_pem, ..broker.options_by(&url) }
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test]
async fn events_come_by_tls_from_a_broker_with_a_certificate_of_ones_own() {
    let (broker, authority) = (Broker::fresh().await, Authority::new());
    let before = Terminator::before(&broker, &authority, "127.0.0.1").await;
    // Larger than what is read at once, and than one frame.
    broker.publish("monitor.acme.1", "m-1", &vec![b' '; 400_000]).await;
    broker.publish("monitor.acme.1", "m-2", b"{}").await;
    let worker = Worker::start(before.options(&broker, Some(authority.pem())), Semaphore::MAX_PERMITS);
    worker.sees("m-2").await;
    assert_eq!(worker.ids(), ["m-1", "m-2"]);
    assert_eq!(worker.intake.seen.lock().expect("not poisoned")[0].envelope.body.len(), 400_000);
    worker.stop().await;
    broker.depth_becomes(&broker.topology.queue, 0).await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_trusted_is_told() {
    let (broker, authority, other) = (Broker::fresh().await, Authority::new(), Authority::new());
    let right = Terminator::before(&broker, &authority, "127.0.0.1").await;
    let wrong = Terminator::before(&broker, &authority, "other.example").await;
    let cases = [
        (right.options(&broker, None), "UnknownIssuer"),
        (right.options(&broker, Some(other.pem())), "invalid peer certificate"),
        (wrong.options(&broker, Some(authority.pem())), "not valid for name"),
    ];
    for (options, says) in cases {
        let error = check(&options).await.expect_err("must refuse");
        let BrokerError::Unavailable(text) = error else { panic!("{error}") };
        assert!(text.contains(says) && text.contains("amqp.ca_file"), "{text}");
    }
    let error = check(&right.options(&broker, Some("nothing".into()))).await.expect_err("must refuse");
    let BrokerError::Misconfigured(text) = error else { panic!("{error}") };
    assert_eq!(text, "amqp.ca_file: it holds no certificate (-----BEGIN CERTIFICATE-----)");
}
