//! virtio-net (see ARCHITECTURE.md).
