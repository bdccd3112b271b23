//! Forms of instructions that code is made of, from iced's tables: all that computes, and nothing whose outcome the
//! architecture leaves open, that leaves the processor's computing, or that a program may not do.

use iced_x86::{Code, EncodingKind, FlowControl, Mnemonic, OpCodeOperandKind};

use crate::random::Random;
use iced_x86::CpuidFeature;
use reduce::features::Features;

/// Sorts of forms, each as likely as its weight says.
#[derive(Debug, Clone)]
pub struct Forms {
    sorts: Vec<(usize, Vec<Code>)>,
}

/// Left out by name.
fn is_left_out(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        // Approximations: each processor has its own.
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss
        // What tells of the machine, its time or its tables.
        | M::Cpuid | M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Xgetbv | M::Rdrand | M::Rdseed | M::Rdpid
        | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw
        // What unmasks exceptions or interrupts, or tells of them.
        | M::Pushf | M::Pushfq | M::Popf | M::Popfq | M::Ldmxcsr | M::Stmxcsr | M::Vldmxcsr | M::Vstmxcsr
        | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss
        | M::Cli | M::Sti | M::Clac | M::Stac
        // What moves the stack by more than a word.
        | M::Enter | M::Leave
        // What says something to a processor's caches, or waits.
        | M::Clflush | M::Clflushopt | M::Clwb | M::Pause | M::Prefetchw | M::Prefetchwt1 | M::Prefetch
        // Undefined where its fields are large.
        | M::Extrq | M::Insertq
    )
}

/// Left out by form: undefined with 16 bits, or otherwise by maker; and what no manual has.
const LEFT_OUT: [Code; 8] = [
    Code::Bswap_r16,
    Code::Movsxd_r16_rm16,
    Code::Shld_rm16_r16_CL,
    Code::Shrd_rm16_r16_CL,
    Code::Test_rm8_imm8_F6r1,
    Code::Test_rm16_imm16_F7r1,
    Code::Test_rm32_imm32_F7r1,
    Code::Test_rm64_imm32_F7r1,
];

fn is_supported(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as K;
    matches!(
        kind,
        K::mem
            | K::mem_vsib32x
            | K::mem_vsib32y
            | K::mem_vsib64x
            | K::mem_vsib64y
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::r8_reg
            | K::r8_opcode
            | K::r16_reg
            | K::r16_rm
            | K::r16_opcode
            | K::r32_reg
            | K::r32_rm
            | K::r32_opcode
            | K::r32_vvvv
            | K::r64_reg
            | K::r64_rm
            | K::r64_opcode
            | K::r64_vvvv
            | K::mm_reg
            | K::mm_rm
            | K::xmm_reg
            | K::xmm_rm
            | K::xmm_vvvv
            | K::xmm_is4
            | K::ymm_reg
            | K::ymm_rm
            | K::ymm_vvvv
            | K::ymm_is4
            | K::al
            | K::cl
            | K::ax
            | K::eax
            | K::rax
            | K::imm8
            | K::imm8_const_1
            | K::imm8sex16
            | K::imm8sex32
            | K::imm8sex64
            | K::imm16
            | K::imm32
            | K::imm32sex64
            | K::imm64
            | K::seg_rSI
            | K::es_rDI
            | K::seg_rDI
            | K::seg_rBX_al
    )
}

/// Whether code may have it at all.
fn is_fit(code: Code, features: &Features) -> bool {
    let form = code.op_code();
    let plain = form.is_instruction()
        && form.mode64()
        && form.intel_decoder64()
        && form.amd_decoder64()
        && form.decoder_option() == 0
        && matches!(form.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && code.flow_control() == FlowControl::Next;
    let allowed = !code.is_privileged()
        && !form.must_be_cpl0()
        && !form.may_require_cpl0()
        && form.cpl3()
        && !form.is_input_output()
        && !code.is_save_restore_instruction()
        && !form.is_reserved_nop()
        && !form.fwait();
    plain
        && allowed
        && !is_left_out(code.mnemonic())
        && !LEFT_OUT.contains(&code)
        && code.cpuid_features().iter().all(|&feature| features.has(feature))
        && form.op_kinds().iter().all(|&kind| is_supported(kind))
        // Of the stack only whole words, and no flags.
        && (!code.is_stack_instruction() || matches!(
            code,
            Code::Push_r64 | Code::Pop_r64 | Code::Pushq_imm8 | Code::Pushq_imm32
        ))
}

/// Each sort's weight.
const INTEGER: usize = 58;
const SSE: usize = 18;
const AVX: usize = 19;
const MMX: usize = 5;

impl Forms {
    /// Those of a processor with these features.
    #[must_use]
    pub fn of(features: &Features) -> Self {
        let mut sorts = vec![(INTEGER, Vec::new()), (SSE, Vec::new()), (AVX, Vec::new()), (MMX, Vec::new())];
        for code in Code::values().filter(|&code| is_fit(code, features)) {
            let of = |features: &[CpuidFeature]| code.cpuid_features().iter().any(|of| features.contains(of));
            let kinds = code.op_code();
            let uses = |name: &str| kinds.op_kinds().iter().any(|kind| format!("{kind:?}").starts_with(name));
            let sort = if uses("mm_") || of(&[CpuidFeature::MMX]) && !uses("xmm") {
                3
            } else if kinds.encoding() == EncodingKind::VEX && !of(&[CpuidFeature::BMI1, CpuidFeature::BMI2])
            {
                2
            } else if uses("xmm") {
                1
            } else {
                0
            };
            sorts[sort].1.push(code);
        }
        Forms { sorts }
    }

    /// Leaves a form out from now on.
    pub fn leave_out(&mut self, code: Code) {
        for (_, codes) in &mut self.sorts {
            codes.retain(|&known| known != code);
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.sorts.iter().map(|(_, codes)| codes.len()).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = Code> {
        self.sorts.iter().flat_map(|(_, codes)| codes.iter().copied())
    }

    /// One of them; `None` where none are left.
    pub fn pick(&self, random: &mut Random) -> Option<Code> {
        let sorts = self.sorts.iter().filter(|(_, codes)| !codes.is_empty());
        let mut at = random.below(sorts.clone().map(|(weight, _)| weight).sum::<usize>().max(1));
        for (weight, codes) in sorts {
            match at.checked_sub(*weight) {
                None => return Some(random.pick(codes)),
                Some(rest) => at = rest,
            }
        }
        None
    }
}
