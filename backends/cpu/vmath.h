/* SPDX-License-Identifier: MIT */
/* Functions on vectors of floats, in the vocabulary of vmath_avx2.h, vmath_avx512.h or
 * vmath_neon.h, which include this file; all give the same bits. The polynomials are minimax fits
 * made for these intervals; tests/test_mm.c bounds the errors. NaN comes out as NaN. */
#ifndef SOBRE_VMATH_H
#define SOBRE_VMATH_H

/* Coefficients from the highest power down. */
#define VF_POLY(x, coeffs) vf_poly(x, coeffs, (int)(sizeof(coeffs) / sizeof((coeffs)[0])))
static inline vf vf_poly(vf x, const float *coeffs, int n)
{
    vf y = vf_set1(coeffs[0]);
    for (int i = 1; i < n; i++) y = vf_fma(y, x, vf_set1(coeffs[i]));
    return y;
}

/* 2^n * e^r with x = n ln 2 + r, |r| <= ln 2 / 2. Denormal results are right, overflow is infinity.
 * Within 2e-7. */
static inline vf vf_exp(vf x)
{
    static const float poly[] = {1.395053812e-3f, 8.368917741e-3f, 4.166620597e-2f, 1.666651815e-1f,
                                 0.5f};
    x = vf_max(vf_set1(-110.0f), vf_min(vf_set1(90.0f), x));
    vf n = vf_round(vf_mul(x, vf_set1(1.442695041f)));
    vf r = vf_fnma(n, vf_set1(0x1.62e4p-1f), x); /* ln 2 in two parts */
    r = vf_fnma(n, vf_set1(0x1.7f7d1cp-20f), r);
    vf y = vf_fma(vf_mul(r, r), VF_POLY(r, poly), r);
    y = vf_add(y, vf_set1(1.0f));
    /* 2^n in two factors, each a normal number. */
    vi n1 = vi_sra(vi_from_vf(n), 1), n2 = vi_sub(vi_from_vf(n), n1);
    y = vf_mul(y, vf_of_bits(vi_sll(vi_add(n1, vi_set1(127)), 23)));
    return vf_mul(y, vf_of_bits(vi_sll(vi_add(n2, vi_set1(127)), 23)));
}

/* Within 3e-7. */
static inline vf vf_tanh(vf x)
{
    static const float poly[] = {-5.603905302e-3f, 2.055171132e-2f, -5.371410400e-2f,
                                 1.333115250e-1f, -3.333327174e-1f};
    vf a = vf_abs(x), z = vf_mul(x, x);
    vf near = vf_fma(vf_mul(VF_POLY(z, poly), z), x, x);
    vf e = vf_exp(vf_add(a, a));
    vf far = vf_sub(vf_set1(1.0f), vf_div(vf_set1(2.0f), vf_add(e, vf_set1(1.0f))));
    return vf_if_lt(a, vf_set1(0.64f), near, vf_copysign(far, x));
}

static inline vf vf_silu(vf x)
{
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_zero(), x))));
}

/* x / 2 (1 + tanh u) = x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3) */
static inline vf vf_gelu_tanh(vf x)
{
    vf u = vf_mul(x, vf_fma(vf_mul(x, x), vf_set1(0.044715f), vf_set1(1.0f)));
    vf e = vf_exp(vf_mul(u, vf_set1(-1.5957691216f)));
    return vf_div(x, vf_add(vf_set1(1.0f), e));
}

/* x / 2 erfc(-x / sqrt 2). For z >= 0, erfc(z) = e^(-z^2) / (1 + 2z) * P((z - 2) / (z + 2)): the
 * mapping of Shepherd and Laframboise, Math. Comp. 36 (1981) 249. */
static inline vf vf_gelu_erf(vf x)
{
    static const float poly[] = {
        -3.906831262e-4f, -1.213305863e-3f, 1.311040134e-3f,  8.617539890e-3f,  -8.061940782e-3f,
        -5.420047417e-2f, 1.640560180e-1f,  -1.660317630e-1f, -9.276401997e-2f, 1.276978374f};
    const vf one = vf_set1(1.0f), two = vf_set1(2.0f), half = vf_set1(0.5f);
    vf a = vf_min(vf_abs(x), vf_set1(16.0f)); /* erfc is 0 in f32 beyond 14.3 */
    vf z = vf_mul(a, vf_set1(0.70710678119f));
    vf t = vf_div(vf_sub(z, two), vf_add(z, two));
    vf square = vf_mul(a, a), rest = vf_fma(a, a, vf_sub(vf_zero(), square));
    vf e = vf_exp(vf_mul(square, vf_set1(-0.5f)));
    e = vf_fnma(e, vf_mul(rest, half), e);
    vf erfc = vf_div(vf_mul(e, VF_POLY(t, poly)), vf_fma(z, two, one));
    vf factor = vf_if_lt(x, vf_zero(), erfc, vf_sub(two, erfc));
    return vf_mul(vf_mul(x, half), factor);
}

#endif
