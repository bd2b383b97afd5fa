//! Arithmetic in GF(2⁸) with the polynomial x⁸+x⁴+x³+x²+1 (0x11d), as Reed-Solomon codes use it.

const POLYNOMIAL: u16 = 0x11d;

const TABLES: ([u8; 512], [u8; 256]) = tables();

/// Powers of 2 (twice around, so that sums of two logarithms need no modulo) and logarithms.
const fn tables() -> ([u8; 512], [u8; 256]) {
    let mut power = [0; 512];
    let mut logarithm = [0; 256];
    let mut value: u16 = 1;
    let mut exponent = 0;
    while exponent < 255 {
        power[exponent] = value as u8;
        power[exponent + 255] = value as u8;
        logarithm[value as usize] = exponent as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= POLYNOMIAL;
        }
        exponent += 1;
    }
    (power, logarithm)
}

/// Product.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    TABLES.0[usize::from(TABLES.1[usize::from(a)]) + usize::from(TABLES.1[usize::from(b)])]
}

/// The x with `a · x = 1`; 0 for 0.
pub(super) fn inverse(a: u8) -> u8 {
    if a == 0 { 0 } else { TABLES.0[255 - usize::from(TABLES.1[usize::from(a)])] }
}

/// `to += factor · from`, element by element, as far as both reach.
pub(super) fn add_scaled(to: &mut [u8], from: &[u8], factor: u8) {
    if factor == 0 {
        return;
    }
    let logarithm = usize::from(TABLES.1[usize::from(factor)]);
    for (to, from) in to.iter_mut().zip(from) {
        if *from != 0 {
            *to ^= TABLES.0[logarithm + usize::from(TABLES.1[usize::from(*from)])];
        }
    }
}

/// Multiplies every element by `factor`.
pub(super) fn scale(values: &mut [u8], factor: u8) {
    for value in values {
        *value = multiply(*value, factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_but_zero_has_an_inverse() {
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a)), 1);
        }
    }

    #[test]
    fn multiplication_distributes_over_addition() {
        for a in 0..=255_u8 {
            for b in (0..=255_u8).step_by(7) {
                let c = a.rotate_left(3) ^ 0x5a;
                assert_eq!(multiply(a, b ^ c), multiply(a, b) ^ multiply(a, c));
            }
        }
    }
}
