//! `iceoryx2`: publish and subscribe, polled, nothing overwritten or left out.
use crate::queue::{Payload, Receiver, Sender, check, poll, slots};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use std::ops::Range;
use std::path::Path;

type Nodes = Node<ipc::Service>;

/// A port, and the node that it belongs to, which goes after it.
pub(crate) struct Iceoryx<Port> {
    port: Port,
    bytes: usize,
    _node: Nodes,
}

fn node(at: &Path) -> (Nodes, ServiceName) {
    set_log_level(LogLevel::Fatal);
    let node = NodeBuilder::new().create().expect("a node");
    (node, at.to_str().and_then(|at| at.try_into().ok()).expect("a name"))
}

impl Iceoryx<()> {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        let (node, name) = node(at);
        let service = node.service_builder(&name).publish_subscribe::<[u8]>();
        let service = service.enable_safe_overflow(false).max_publishers(1).max_subscribers(1);
        let service = service.subscriber_max_buffer_size(slots(bytes) as usize);
        let service = service.create().expect("a service");
        let port = service.publisher_builder();
        let port = port.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
        let port = port.initial_max_slice_len(bytes).create().expect("a publisher");
        Box::new(Iceoryx { port, bytes, _node: node })
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        let (node, name) = node(at);
        let service = node.service_builder(&name).publish_subscribe::<[u8]>().open();
        let port = service.expect("a service").subscriber_builder().create();
        Box::new(Iceoryx { port: port.expect("a subscriber"), bytes, _node: node })
    }
}

impl Sender for Iceoryx<Publisher<ipc::Service, [u8], ()>> {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            let sample = self.port.loan_slice_uninit(self.bytes).expect("a sample");
            let sent = sample.write_from_slice(payload.numbered(number)).send();
            assert_eq!(sent.expect("it lives"), 1);
        }
    }
}

impl Receiver for Iceoryx<Subscriber<ipc::Service, [u8], ()>> {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            let sample = poll(|| self.port.receive().expect("it lives"));
            assert_eq!(sample.len(), self.bytes);
            check(&sample, number);
        }
    }
}
