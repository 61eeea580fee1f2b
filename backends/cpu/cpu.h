/* SPDX-License-Identifier: MIT */
/* The CPU backend from inside. cpu.c is the vtable, step.c compiles and runs programs, mm*.c are
 * products, attn*.c is attention, vec*.c everything elementwise. Each kernel family is a small
 * table that the scalar reference fills and the instruction sets overwrite tier by tier. */
#ifndef SOBRE_CPU_H
#define SOBRE_CPU_H

#include "mm.h"

/* The instruction set that SOBRE_CPU_BEST means here; UNAVAILABLE (false) for one that the
 * processor lacks. */
bool cpu_isa_resolve(sobre_cpu_isa asked, sobre_cpu_isa *ret_isa);
const char *cpu_isa_name(sobre_cpu_isa isa); /* "AVX2" */
/* The processor's name, for devices. */
void cpu_model_name(char *name, size_t size);

/* The backend. */
const sobre_backend *cpu_backend(const sobre_host *host);

#endif
