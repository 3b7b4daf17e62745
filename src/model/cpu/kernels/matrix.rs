//! Matrices as strided views of slices, and their product by `gemm`.
//!
//! The constructors check that every element lies inside its slice, which the one unsafe call relies on.

/// A view of a matrix inside a slice: element `(i, j)` is at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub(in crate::model::cpu) data: &'a [f32],
    pub(in crate::model::cpu) rows: usize,
    pub(in crate::model::cpu) cols: usize,
    pub(in crate::model::cpu) row_stride: usize,
    pub(in crate::model::cpu) col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A dense `(rows, cols)` matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A `(rows, cols)` matrix whose rows begin `row_stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix view exceeds its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The rows from `start` on, `count` of them.
    #[must_use]
    pub fn range(self, start: usize, count: usize) -> Self {
        assert!(
            start + count <= self.rows && self.col_stride == 1,
            "rows outside the matrix"
        );
        Self::strided(&self.data[start * self.row_stride..], count, self.cols, self.row_stride)
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// The writable counterpart of [`Mat`], rows contiguous.
pub struct MatMut<'a> {
    pub(in crate::model::cpu) data: &'a mut [f32],
    pub(in crate::model::cpu) rows: usize,
    pub(in crate::model::cpu) cols: usize,
    pub(in crate::model::cpu) row_stride: usize,
}

impl<'a> MatMut<'a> {
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix view exceeds its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }

    /// The rows from `start` on, `count` of them.
    pub fn range(&mut self, start: usize, count: usize) -> MatMut<'_> {
        assert!(start + count <= self.rows, "rows outside the matrix");
        let rows = &mut self.data[start * self.row_stride..];
        MatMut::strided(rows, count, self.cols, self.row_stride)
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (row_stride >= cols && (rows - 1) * row_stride + cols <= len)
}

/// What happens to the old content of a product's destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Overwrite,
    Accumulate,
}

/// `dst = lhs · rhs` or `dst += lhs · rhs`, on the calling thread.
pub fn matmul(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, write: Write) {
    matmul_by(dst, lhs, rhs, write, 1);
}

/// The same, on up to `threads` threads; the sums run in the same order on any number of them.
pub fn matmul_by(dst: MatMut<'_>, lhs: Mat<'_>, rhs: Mat<'_>, write: Write, threads: usize) {
    assert_eq!(
        (dst.rows, dst.cols, lhs.cols),
        (lhs.rows, rhs.cols, rhs.rows),
        "matmul shapes"
    );
    #[expect(unsafe_code, reason = "the SIMD kernels of gemm take pointers")]
    // SAFETY: the constructors of `Mat` and `MatMut` checked that every element addressed by
    // (rows, cols, strides) lies inside its slice, `t()` keeps the set of addressed elements, and
    // `dst` is borrowed exclusively, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            lhs.cols,
            dst.data.as_mut_ptr(),
            1,
            dst.row_stride as isize,
            write == Write::Accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            match threads {
                0 | 1 => gemm::Parallelism::None,
                more => gemm::Parallelism::Rayon(more),
            },
        );
    }
}
