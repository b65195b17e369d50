"""The kernels that the report did not try, and what they are made of.

dequantize_then_blas   the whole matrix to float32, then BLAS
fused_rows             a row at a time to float32, used at once
integer_dot            a row of codes times codes of x
simd_dot               sixteen rows at a time, in vectors; simd_tiles, integer_gemm for more rows of x

quantized_activations  x as 8-bit codes                      unpack   codes and scales of each format
panels                 loops over blocks of sixteen rows     rows_times_x   such loops as jobs for a model
"""
