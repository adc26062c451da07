//! nr (see ARCHITECTURE.md).
