//! The replicated structures: sequential data structures with typed operations.
//!
//! A structure here knows no lock, no clock and no core. Each operation is a type with a response of its own, and applying equal
//! operations to equal structures leaves equal structures. For now each structure has one replica behind a lock of its owner.

pub mod address_space;
pub mod process_table;

/// An operation that changes a structure of type `D`.
pub trait Operation<D> {
    /// What the caller gets.
    type Response;

    /// Changes the structure. Deterministic: what varies (frames, addresses that were chosen, times) is part of the operation.
    fn apply(self, data: &mut D) -> Self::Response;
}
