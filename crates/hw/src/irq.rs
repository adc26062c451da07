//! How a driver asks for interrupts.
//!
//! The handler is not the driver's: it belongs to whoever implements [`Irq`], and does no more than add the `causes`
//! that the driver named for this vector to a pending word, and wake the task that polls the device. That task then
//! calls the driver, for example [`Nic::acknowledge`](crate::Nic::acknowledge), with the pending causes.
//!
//! A line is level-triggered and stays asserted until the driver has acknowledged; its handler therefore also
//! masks the line at the interrupt controller, and the task unmasks it once it has called the driver. Messages (MSI
//! and MSI-X) need neither.

/// Where a device writes to raise a message-signalled interrupt, and what (Intel SDM volume 3, "Message Signalled
/// Interrupts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The bus address of the write.
    pub address: u64,
    /// The 32 bits that are written.
    pub data: u32,
}

/// Why there is no interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqError {
    /// All vectors are in use.
    NoVector,
    /// This kind of interrupt cannot reach a processor here (no MSI support, no pin, or no route for the pin).
    NoRoute,
}

/// The interrupts of one device. They are freed when this is dropped, which the driver does after it stopped the device.
pub trait Irq: Send {
    /// Allocates a vector. Its handler adds `causes`, a set of bits of the driver's choice, to the pending word.
    fn message(&self, causes: u32) -> Result<Message, IrqError>;

    /// Connects the pin of the function (INTA# to INTD#). Its handler adds `causes` to the pending word and masks the line.
    fn line(&self, causes: u32) -> Result<(), IrqError>;
}
