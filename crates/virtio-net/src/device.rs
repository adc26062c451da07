//! The driver as a [`Nic`].

use hw::nic::{
    Capabilities, DeviceFault, ETHERNET_HEADER, Events, Offload, StartError, Statistics, TxError, VLAN_TAG,
};
use hw::{Frame, MacAddress, Nic, PciDevice};

use crate::header;
use crate::queue::Queue;
use crate::receive::ReceiveQueue;
use crate::spec::{Features, isr, net, queues};
use crate::transmit::TransmitQueue;
use crate::transport::{Transport, Vectors};

/// The features that are used where they are offered.
const WANTED: Features = Features::all();
/// More descriptors than this do not make anything faster.
const MAX_QUEUE: u16 = 512;
/// Receive buffers are at least so large; two share a page.
const MIN_BUFFER: usize = 2048;
/// Frames larger than this are spread over several buffers, where the device can do that.
const MAX_MERGEABLE_BUFFER: usize = 4096;

/// A virtio network device.
///
/// Fields are dropped in order: the transport stops the device before the memory of the queues is freed.
pub struct VirtioNet {
    transport: Transport,
    receive: ReceiveQueue,
    transmit: TransmitQueue,
    notify_receive: usize,
    notify_transmit: usize,
    features: Features,
    mac: MacAddress,
    capabilities: Capabilities,
    link_up: bool,
    statistics: Statistics,
    fault: Option<DeviceFault>,
}

impl VirtioNet {
    /// Brings a device up (VIRTIO 3.1.1, 5.1.5).
    pub fn start(device: PciDevice) -> Result<Self, StartError> {
        let mut transport = Transport::new(device)?;
        let features = negotiate(&transport)?;
        let mac = station_address(&transport, features)?;
        let mtu = if features.contains(Features::MTU) { transport.mtu() } else { net::DEFAULT_MTU };
        let vectors = transport.connect_interrupts()?;
        let (receive, transmit) = make_queues(&transport, features, mtu)?;
        let capabilities = Capabilities {
            mtu,
            tx_checksum: features.contains(Features::CSUM),
            rx_checksum: features.contains(Features::GUEST_CSUM),
            rx_depth: receive.queue.size(),
            tx_depth: transmit.queue.size(),
        };
        let mut nic = Self {
            transport,
            receive,
            transmit,
            notify_receive: 0,
            notify_transmit: 0,
            features,
            mac,
            capabilities,
            link_up: true,
            statistics: Statistics::default(),
            fault: None,
        };
        nic.enable(vectors)?;
        Ok(nic)
    }

    /// Gives the queues to the device and lets it go.
    fn enable(&mut self, vectors: Vectors) -> Result<(), StartError> {
        let enable = |number, queue: &Queue, vector| {
            self.transport.enable_queue(number, queue.size(), queue.addresses(), vector)
        };
        self.notify_receive = enable(queues::RECEIVE, &self.receive.queue, vectors.receive)?;
        self.notify_transmit = enable(queues::TRANSMIT, &self.transmit.queue, vectors.transmit)?;
        self.transport.finish();
        self.link_up = self.read_link();
        self.flush();
        Ok(())
    }

    fn read_link(&self) -> bool {
        // Without the feature the link is assumed to be up (VIRTIO 5.1.4.2).
        !self.features.contains(Features::STATUS) || self.transport.link_up()
    }

    /// Stops a device that broke its protocol.
    fn fail(&mut self, fault: DeviceFault) {
        self.fault = Some(fault);
        self.transport.stop();
    }

    /// What the device reports by its pin.
    fn read_causes(&self) -> Events {
        let causes = self.transport.isr();
        let mut events = Events::empty();
        events.set(Events::RX | Events::TX, causes & isr::QUEUE != 0);
        events.set(Events::LINK, causes & isr::CONFIG != 0);
        events
    }

    /// Looks at the configuration after it changed; whether the link did.
    fn check_configuration(&mut self) -> bool {
        if let Some(fault) = self.transport.fault() {
            self.fail(fault);
            return true;
        }
        let was_up = core::mem::replace(&mut self.link_up, false);
        self.link_up = self.read_link();
        self.link_up != was_up
    }

    fn try_transmit(
        &mut self,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TxError> {
        self.capabilities.check(length, offload)?;
        if !self.can_transmit() {
            return Err(if self.fault.is_some() { TxError::Broken } else { TxError::Full });
        }
        if self.transmit.send(length, offload, fill) { Ok(()) } else { Err(TxError::Full) }
    }
}

/// Agrees with the device on features.
fn negotiate(transport: &Transport) -> Result<Features, StartError> {
    let mut features = transport.offered() & WANTED;
    if !features.contains(Features::VERSION_1) {
        return Err(StartError::Unsupported("a device from before virtio 1"));
    }
    // An impossible MTU is declined (VIRTIO 5.1.4.2).
    if features.contains(Features::MTU) && transport.mtu() < net::MIN_MTU {
        features.remove(Features::MTU);
    }
    transport.accept(features)?;
    Ok(features)
}

/// The device's address, or one made up if it has none (VIRTIO 5.1.5).
fn station_address(transport: &Transport, features: Features) -> Result<MacAddress, StartError> {
    if !features.contains(Features::MAC) {
        return Ok(MacAddress::local(transport.clock().now().as_nanos() as u64));
    }
    Some(transport.mac()).filter(|mac| mac.is_station()).ok_or(StartError::BadValue("hardware address"))
}

/// Makes both queues of the pair.
fn make_queues(
    transport: &Transport,
    features: Features,
    mtu: u16,
) -> Result<(ReceiveQueue, TransmitQueue), StartError> {
    let queue = |number| {
        let limit = transport.queue_limit(number).ok_or(StartError::BadValue("queue_size"))?;
        let event_index = features.contains(Features::EVENT_IDX);
        Ok::<_, StartError>(Queue::new(transport.dma(), limit.min(MAX_QUEUE), event_index)?)
    };
    let max_frame = usize::from(mtu) + ETHERNET_HEADER + VLAN_TAG;
    let mergeable = features.contains(Features::MRG_RXBUF);
    let most = if mergeable { MAX_MERGEABLE_BUFFER } else { usize::MAX };
    let buffer_size = (header::LENGTH + max_frame).clamp(MIN_BUFFER, most);
    let receive = ReceiveQueue::new(transport.dma(), queue(queues::RECEIVE)?, buffer_size, mergeable)?;
    let transmit = TransmitQueue::new(transport.dma(), queue(queues::TRANSMIT)?, max_frame)?;
    Ok((receive, transmit))
}

impl Nic for VirtioNet {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn link_up(&self) -> bool {
        self.link_up && self.fault.is_none()
    }

    fn statistics(&self) -> Statistics {
        self.statistics
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.fault
    }

    fn receive(&mut self) -> Option<Frame> {
        // A device that delivers nothing but damaged frames must not keep the core: one round of the queue at most.
        for _ in 0..self.capabilities.rx_depth {
            if self.fault.is_some() {
                return None;
            }
            match self.receive.poll() {
                Ok(Some(arrival)) => match self.statistics.count_received(arrival) {
                    None => continue,
                    frame => return frame,
                },
                Ok(None) => return None,
                Err(fault) => self.fail(fault),
            }
        }
        None
    }

    fn can_transmit(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.transmit.has_room().unwrap_or_else(|fault| {
            self.fail(fault);
            false
        })
    }

    fn transmit(
        &mut self,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TxError> {
        let result = self.try_transmit(length, offload, fill);
        self.statistics.count_sent(length, result);
        result
    }

    fn flush(&mut self) {
        if self.fault.is_some() {
            return;
        }
        if self.transmit.queue.needs_notification() {
            self.transport.notify(self.notify_transmit, queues::TRANSMIT);
        }
        if self.receive.queue.needs_notification() {
            self.transport.notify(self.notify_receive, queues::RECEIVE);
        }
    }

    fn disable_interrupts(&mut self) {
        self.receive.queue.suppress_interrupts();
        self.transmit.queue.suppress_interrupts();
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let received = self.receive.queue.request_interrupt(1);
        match self.transmit.wait_is_over() {
            Ok(over) => received || over,
            Err(fault) => {
                self.fail(fault);
                false
            }
        }
    }

    fn acknowledge(&mut self, pending: Events) -> Events {
        if self.fault.is_some() || pending.is_empty() {
            return Events::empty();
        }
        let mut events = if self.transport.uses_pin() { self.read_causes() } else { pending };
        if events.contains(Events::LINK) {
            let changed = self.check_configuration();
            events.set(Events::LINK, changed);
        }
        events
    }
}

#[cfg(test)]
mod tests;
