//! hw (see ARCHITECTURE.md).
