//! /proc/cpuinfo.

use core::fmt::Write;

use raw_cpuid::{CpuId, CpuIdReader};

use crate::errno::Errno;
use crate::fs::machine;
use crate::fs::pseudo::Text;

/// A paragraph for each core.
pub fn show(_: &(), text: &mut Text) -> Result<(), Errno> {
    let (cpu, machine) = (CpuId::new(), machine::get());
    for core in 0..machine.cores {
        show_core(text, &cpu, core, machine.cores, machine.frequency)?;
    }
    Ok(())
}

fn show_core(
    text: &mut Text,
    cpu: &CpuId<impl CpuIdReader>,
    core: usize,
    cores: usize,
    frequency: u64,
) -> Result<(), Errno> {
    let vendor = cpu.get_vendor_info();
    let brand = cpu.get_processor_brand_string();
    let features = cpu.get_feature_info();
    let sizes = cpu.get_processor_capacity_feature_info();
    let (family, model, stepping) =
        features.as_ref().map_or((0, 0, 0), |f| (f.family_id(), f.model_id(), f.stepping_id()));
    let (mhz, khz) = (frequency / 1_000_000, frequency / 1000 % 1000);
    let (physical, linear) =
        sizes.map_or((36, 48), |sizes| (sizes.physical_address_bits(), sizes.linear_address_bits()));
    let line = features.as_ref().map_or(64, |f| u32::from(f.cflush_cache_line_size()) * 8);
    writeln!(text, "processor\t: {core}")?;
    writeln!(text, "vendor_id\t: {}", vendor.as_ref().map_or("unknown", |vendor| vendor.as_str()))?;
    writeln!(text, "cpu family\t: {family}\nmodel\t\t: {model}")?;
    let name = brand.as_ref().map_or("unknown", |brand| brand.as_str());
    writeln!(text, "model name\t: {}\nstepping\t: {stepping}", name.trim())?;
    writeln!(text, "cpu MHz\t\t: {mhz}.{khz:03}")?;
    writeln!(text, "physical id\t: 0\nsiblings\t: {cores}\ncore id\t\t: {core}\ncpu cores\t: {cores}")?;
    writeln!(text, "apicid\t\t: {core}\nfpu\t\t: yes\nfpu_exception\t: yes\nwp\t\t: yes")?;
    write!(text, "flags\t\t:")?;
    for (name, present) in flags(cpu) {
        if present {
            write!(text, " {name}")?;
        }
    }
    writeln!(text, "\nbogomips\t: {}.{:02}", mhz * 2, khz * 2 / 10 % 100)?;
    writeln!(text, "clflush size\t: {line}\ncache_alignment\t: {line}")?;
    writeln!(text, "address sizes\t: {physical} bits physical, {linear} bits virtual\n")?;
    Ok(())
}

/// The features that programs look for, under Linux's names.
fn flags(cpu: &CpuId<impl CpuIdReader>) -> [(&'static str, bool); 41] {
    let basic = cpu.get_feature_info();
    let more = cpu.get_extended_feature_info();
    let high = cpu.get_extended_processor_and_feature_identifiers();
    macro_rules! has {
        ($info:ident, $method:ident) => {
            $info.as_ref().is_some_and(|info| info.$method())
        };
    }
    [
        ("fpu", has!(basic, has_fpu)),
        ("de", has!(basic, has_de)),
        ("pse", has!(basic, has_pse)),
        ("tsc", has!(basic, has_tsc)),
        ("msr", has!(basic, has_msr)),
        ("pae", has!(basic, has_pae)),
        ("cx8", has!(basic, has_cmpxchg8b)),
        ("apic", has!(basic, has_apic)),
        ("sep", has!(basic, has_sysenter_sysexit)),
        ("pge", has!(basic, has_pge)),
        ("cmov", has!(basic, has_cmov)),
        ("clflush", has!(basic, has_clflush)),
        ("mmx", has!(basic, has_mmx)),
        ("fxsr", has!(basic, has_fxsave_fxstor)),
        ("sse", has!(basic, has_sse)),
        ("sse2", has!(basic, has_sse2)),
        ("ht", has!(basic, has_htt)),
        ("syscall", has!(high, has_syscall_sysret)),
        ("nx", has!(high, has_execute_disable)),
        ("pdpe1gb", has!(high, has_1gib_pages)),
        ("rdtscp", has!(high, has_rdtscp)),
        ("lm", has!(high, has_64bit_mode)),
        ("pni", has!(basic, has_sse3)),
        ("pclmulqdq", has!(basic, has_pclmulqdq)),
        ("ssse3", has!(basic, has_ssse3)),
        ("fma", has!(basic, has_fma)),
        ("cx16", has!(basic, has_cmpxchg16b)),
        ("sse4_1", has!(basic, has_sse41)),
        ("sse4_2", has!(basic, has_sse42)),
        ("movbe", has!(basic, has_movbe)),
        ("popcnt", has!(basic, has_popcnt)),
        ("aes", has!(basic, has_aesni)),
        ("xsave", has!(basic, has_xsave)),
        ("avx", has!(basic, has_avx)),
        ("rdrand", has!(basic, has_rdrand)),
        ("hypervisor", has!(basic, has_hypervisor)),
        ("fsgsbase", has!(more, has_fsgsbase)),
        ("bmi1", has!(more, has_bmi1)),
        ("avx2", has!(more, has_avx2)),
        ("smep", has!(more, has_smep)),
        ("smap", has!(more, has_smap)),
    ]
}
