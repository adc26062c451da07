//! Hands the linker script to the linker when the kernel is built for the bare machine.

fn main() {
    println!("cargo:rerun-if-changed=linker.ld");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the manifest folder");
        println!("cargo:rustc-link-arg-bins=-T{folder}/linker.ld");
        println!("cargo:rustc-link-arg-bins=--gc-sections");
        println!("cargo:rustc-link-arg-bins=-znostart-stop-gc");
    }
}
