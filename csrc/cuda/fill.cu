// Fills an operand on the device with the generator of pykernels/kernels/random.py: element i depends on the seed and i only.
//
// Operands: p (out). dims: n elements, seed, bits an element, kind. scalars: low, high. Arithmetic is spelled out with
// rounding intrinsics, since a contracted multiply-add would differ from the host's last bit.
#include "common.cuh"

enum fill_kind { FLOATING = 0, INTEGERS = 1, BFLOAT = 2, WHOLE = 3 };  // WHOLE: integers, stored as fp64 or fp32

typedef unsigned long long fill_word;

PK_DEV fill_word fill_mix(fill_word x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

PK_DEV double fill_scaled(fill_word draw, double unit, double low, double high) {
  return __dadd_rn(low, __dmul_rn(high - low, __dmul_rn((double)draw, unit)));
}

template <class T> PK_DEV T fill_half(fill_word draw, double low, double high) {
  T v, first, beyond;
  pk_narrow((float)fill_scaled(draw, 1.0 / 65536, low, high), &v);
  pk_narrow((float)low, &first);
  pk_narrow((float)high, &beyond);
  return v.bits == beyond.bits ? first : v;
}

PK_DEV fill_word fill_integer(fill_word draw, int bits, double low, double high) {
  fill_word n = (fill_word)((pk_int)high - (pk_int)low);
  fill_word taken = bits == 64 ? __umul64hi(draw, n) : (draw * n) >> bits;  // draw < 2^32 and n <= 2^32
  return (fill_word)((pk_int)low + (pk_int)taken);
}

// The bits of one element from its draw.
PK_DEV fill_word fill_element(fill_word draw, int bits, int kind, double low, double high) {
  if (kind == INTEGERS) return fill_integer(draw, bits, low, high);
  if (kind == WHOLE) {
    pk_int whole = (pk_int)fill_integer(draw, bits, low, high);
    return bits == 64 ? (fill_word)__double_as_longlong((double)whole) : __float_as_uint((float)whole);
  }
  if (bits == 64) {
    double v = fill_scaled(draw >> 12, 1.0 / 4503599627370496.0, low, high);
    return (fill_word)__double_as_longlong(v < high ? v : low);
  }
  if (bits == 32) {
    float v = (float)fill_scaled(draw >> 9, 1.0 / 8388608, low, high);
    return __float_as_uint((double)v < high ? v : (float)low);
  }
  return kind == BFLOAT ? fill_half<pk_bf16>(draw, low, high).bits : fill_half<pk_fp16>(draw, low, high).bits;
}

// One 64-bit word of elements per thread; the last word is stored bytewise.
PK_DEV void fill_words(const pk_args& a) {
  pk_int n = a.dim[0];
  int bits = (int)a.dim[2], per = 64 / bits;
  fill_word mask = bits == 64 ? ~0ull : (1ull << bits) - 1, key = fill_mix((fill_word)a.dim[1] + 0x632BE59BD9B4E019ull);
  pk_int bytes = (n * bits + 7) / 8;
  for (pk_int j = pk_thread(); j * 8 < bytes; j += pk_threads()) {
    fill_word word = fill_mix(key + (fill_word)(j + 1) * 0x9E3779B97F4A7C15ull), out = 0;
    for (int k = 0; k < per && j * per + k < n; ++k) {
      fill_word draw = word >> (k * bits % 64) & mask;
      out |= (fill_element(draw, bits, (int)a.dim[3], a.scalar[0], a.scalar[1]) & mask) << (k * bits % 64);
    }
    if (j * 8 + 8 <= bytes) ((fill_word*)a.ptr[0])[j] = out;
    else for (pk_int b = j * 8; b < bytes; ++b) ((unsigned char*)a.ptr[0])[b] = (unsigned char)(out >> (b % 8 * 8));
  }
}

// Ends quantised rows with scale and bias (operands: table, tails of `period` rows; dims: rows, bytes of a row, period).
PK_DEV void fill_tails(const pk_args& a) {
  for (pk_int r = pk_thread(); r < a.dim[0]; r += pk_threads()) {
    const char* tail = (const char*)a.ptr[1] + r % a.dim[2] * 8;
    char* end = (char*)a.ptr[0] + (r + 1) * a.dim[1] - 8;
    for (int k = 0; k < 8; ++k) end[k] = tail[k];
  }
}

// Random cycles (kernels/cycle.py): every word of a line becomes the address of the line after it in its block's cycle.
// Operands: lines. dims: blocks, lines of a block, words of a line, mask, shift, three factors, their inverses, the term.
struct fill_cycle {
  fill_word n, mask, factor[3], inverse[3], term;
  int shift;
  PK_METHOD explicit fill_cycle(const pk_args& a)
      : n((fill_word)a.dim[1]), mask((fill_word)a.dim[3]), term((fill_word)a.dim[11]), shift((int)a.dim[4]) {
#pragma unroll
    for (int i = 0; i < 3; ++i) factor[i] = (fill_word)a.dim[5 + i], inverse[i] = (fill_word)a.dim[8 + i];
  }
  PK_METHOD fill_word mix(fill_word x) const {
    x = (x * factor[0] + term) & mask;
    x = ((x ^ (x >> shift)) * factor[1]) & mask;
    return ((x ^ (x >> shift)) * factor[2]) & mask;
  }
  PK_METHOD fill_word unmix(fill_word x) const {
    x = (x * inverse[2]) & mask;
    x = ((x ^ (x >> shift)) * inverse[1]) & mask;
    return (((x ^ (x >> shift)) - term) * inverse[0]) & mask;
  }
  PK_METHOD fill_word next(fill_word line) const {
    do line = unmix(line);
    while (line >= n);
    line = line + 1 == n ? 0 : line + 1;
    do line = mix(line);
    while (line >= n);
    return line;
  }
};

PK_DEV void fill_cycles(const pk_args& a) {
  fill_cycle cycle(a);
  pk_int lines = a.dim[1], words = a.dim[2];
  for (pk_int j = pk_thread(); j < a.dim[0] * lines; j += pk_threads()) {
    fill_word *block = (fill_word*)a.ptr[0] + j / lines * lines * words, *line = block + j % lines * words;
    fill_word to = (fill_word)(block + (pk_int)cycle.next((fill_word)(j % lines)) * words);
    for (pk_int w = 0; w < words; ++w) line[w] = to;
  }
}

PK_ENTRY(fill, , any, plain, 75, 256, SM(8), none, (fill_words(a)))
PK_ENTRY(fill, tails, any, plain, 75, 256, SM(8), none, (fill_tails(a)))
PK_ENTRY(fill, cycle, any, plain, 75, 256, SM(8), none, (fill_cycles(a)))
