package ident

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

const (
	base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	bech32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
)

var base58Value, bech32Value = valuesOf(base58), valuesOf(bech32)

// valuesOf maps each character to its place in the alphabet, others to -1.
func valuesOf(alphabet string) (table [256]int8) {
	for i := range table {
		table[i] = -1
	}
	for i := range len(alphabet) {
		table[alphabet[i]] = int8(i)
	}
	return table
}

// ValidBitcoin checks an address of Bitcoin's main network: base58check with the
// versions 0 and 5, or bech32 (BIP-173) and bech32m (BIP-350) behind bc1.
func ValidBitcoin(a []byte) bool {
	switch {
	case len(a) < 26 || len(a) > 90:
		return false
	case a[0] == '1' || a[0] == '3':
		return validBase58(a)
	case bytes.EqualFold(a[:3], []byte("bc1")):
		return validBech32(a)
	default:
		return false
	}
}

func validBase58(a []byte) bool {
	if len(a) > 35 {
		return false
	}
	raw, ok := readBase58(a)
	if !ok {
		return false
	}
	if raw[0] != 0 && raw[0] != 5 {
		return false
	}
	return bytes.Equal(raw[21:], checksum58(raw[:21]))
}

// readBase58 reads a number of 25 bytes.
func readBase58(a []byte) (raw [25]byte, ok bool) {
	for _, c := range a {
		carry := int(base58Value[c])
		if carry < 0 {
			return raw, false
		}
		for i := len(raw) - 1; i >= 0; i-- {
			carry += 58 * int(raw[i])
			raw[i] = byte(carry)
			carry >>= 8
		}
		if carry != 0 {
			return raw, false
		}
	}
	return raw, true
}

func checksum58(payload []byte) []byte {
	first := sha256.Sum256(payload)
	second := sha256.Sum256(first[:])
	return second[:4]
}

// bitcoinBurn begins the hash of every address MakeBitcoin writes with burn set: a
// hash of which nobody knows a key.
var bitcoinBurn = []byte("no one has ")

// MakeBitcoin appends an address like the one given: base58check for version 0 or
// 5, or bech32 of version 0, to a hash from draw. With burn, the hash begins with
// eleven bytes of plain text, so that no key for it is known and [ReservedBitcoin]
// knows it again.
func MakeBitcoin(dst, like []byte, burn bool, draw func(n int) int) []byte {
	var hash [20]byte
	for i := range hash {
		hash[i] = byte(draw(256))
	}
	if burn {
		copy(hash[:], bitcoinBurn)
	}
	if like[0] != '1' && like[0] != '3' {
		return appendBech32(dst, hash[:])
	}
	var raw [25]byte
	if like[0] == '3' {
		raw[0] = 5
	}
	copy(raw[1:], hash[:])
	copy(raw[21:], checksum58(raw[:21]))
	return appendBase58(dst, raw[:])
}

func appendBase58(dst, raw []byte) []byte {
	at := len(dst)
	n := bytes.Clone(raw)
	for {
		rest, zero := 0, true
		for i := range n {
			rest = rest<<8 | int(n[i])
			n[i] = byte(rest / 58)
			rest %= 58
			zero = zero && n[i] == 0
		}
		dst = append(dst, base58[rest])
		if zero {
			break
		}
	}
	for i := 0; i < len(raw) && raw[i] == 0; i++ {
		dst = append(dst, '1')
	}
	for i, j := at, len(dst)-1; i < j; i, j = i+1, j-1 {
		dst[i], dst[j] = dst[j], dst[i]
	}
	return dst
}

// ReservedBitcoin reports whether a valid address is one MakeBitcoin burnt.
func ReservedBitcoin(a []byte) bool {
	if a[0] == '1' || a[0] == '3' {
		raw, _ := readBase58(a)
		return bytes.HasPrefix(raw[1:], bitcoinBurn)
	}
	// As many characters as the text fills with its bits, behind bc1q.
	return bytes.HasPrefix(bytes.ToLower(a), burntBech32)
}

var burntBech32 = appendBech32(nil, append(bytes.Clone(bitcoinBurn), make([]byte, 20-len(bitcoinBurn))...))[:4+8*len(bitcoinBurn)/5]

func polymod(values []byte) uint32 {
	c := uint32(1)
	for _, v := range values {
		top := c >> 25
		c = c&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 != 0 {
				c ^= g
			}
		}
	}
	return c
}

// bcExpanded is the human-readable part bc, as the checksum takes it in.
var bcExpanded = []byte{3, 3, 0, 2, 3}

func validBech32(a []byte) bool {
	var room [5 + 90]byte
	values := append(room[:0], bcExpanded...)
	lower, upper := false, false
	for _, c := range a {
		lower = lower || 'a' <= c && c <= 'z'
		upper = upper || isUpper(c)
	}
	if lower && upper {
		return false
	}
	for _, c := range a[3:] {
		if isUpper(c) {
			c += 'a' - 'A'
		}
		v := bech32Value[c]
		if v < 0 {
			return false
		}
		values = append(values, byte(v))
	}
	want := uint32(0x2bc830a3) // bech32m
	if values[5] == 0 {
		want = 1
		if len(a) != 42 && len(a) != 62 {
			return false
		}
	}
	return values[5] <= 16 && polymod(values) == want
}

func appendBech32(dst, hash []byte) []byte {
	values := append(bytes.Clone(bcExpanded), 0)
	acc, have := 0, 0
	for _, b := range hash {
		acc, have = acc<<8|int(b), have+8
		for have >= 5 {
			have -= 5
			values = append(values, byte(acc>>have&31))
		}
		acc &= 1<<have - 1
	}
	if have > 0 {
		values = append(values, byte(acc<<(5-have)&31))
	}
	sum := polymod(append(values, 0, 0, 0, 0, 0, 0)) ^ 1
	dst = append(dst, "bc1"...)
	for _, v := range values[len(bcExpanded):] {
		dst = append(dst, bech32[v])
	}
	for i := range 6 {
		dst = append(dst, bech32[sum>>(5*(5-i))&31])
	}
	return dst
}

// ValidEthereum checks 0x and 40 hexadecimal digits; where both cases occur they
// have to be those of EIP-55.
func ValidEthereum(a []byte) bool {
	if len(a) != 42 || a[0] != '0' || a[1] != 'x' {
		return false
	}
	lower, upper := false, false
	for _, c := range a[2:] {
		switch {
		case isDigit(c):
		case 'a' <= c && c <= 'f':
			lower = true
		case 'A' <= c && c <= 'F':
			upper = true
		default:
			return false
		}
	}
	if !lower || !upper {
		return true
	}
	var want [42]byte
	copy(want[:], a)
	eip55(want[2:])
	return bytes.Equal(want[:], a)
}

// eip55 writes the 40 hexadecimal digits in the case that their hash prescribes.
func eip55(hex []byte) {
	for i, c := range hex {
		if isUpper(c) {
			hex[i] = c + 'a' - 'A'
		}
	}
	sum := keccak256(hex)
	for i, c := range hex {
		nibble := sum[i/2] >> 4
		if i%2 == 1 {
			nibble = sum[i/2] & 15
		}
		if c >= 'a' && nibble >= 8 {
			hex[i] = c - 'a' + 'A'
		}
	}
}

// ethereumBurn begins every address that MakeEthereum writes with burn set.
const ethereumBurn = "000000000000dead"

// MakeEthereum appends an address from draw, in the case of EIP-55. With burn it
// begins with six bytes of zero and the word dead: nobody knows a key for it.
func MakeEthereum(dst []byte, burn bool, draw func(n int) int) []byte {
	dst = append(dst, "0x"...)
	at := len(dst)
	for range 40 {
		dst = append(dst, "0123456789abcdef"[draw(16)])
	}
	if burn {
		copy(dst[at:], ethereumBurn)
	}
	eip55(dst[at:])
	return dst
}

// ReservedEthereum reports whether a valid address is one MakeEthereum burnt.
func ReservedEthereum(a []byte) bool {
	return bytes.EqualFold(a[2:2+len(ethereumBurn)], []byte(ethereumBurn))
}

// keccak256 is Keccak with the padding of the submission, as Ethereum has it, which
// is not the SHA3-256 of FIPS 202. msg is shorter than one block.
func keccak256(msg []byte) [32]byte {
	const rate = 136
	var block [rate]byte
	copy(block[:], msg)
	block[len(msg)] ^= 0x01
	block[rate-1] ^= 0x80
	var state [25]uint64
	for i := range rate / 8 {
		state[i] = binary.LittleEndian.Uint64(block[8*i:])
	}
	keccakF(&state)
	var sum [32]byte
	for i := range 4 {
		binary.LittleEndian.PutUint64(sum[8*i:], state[i])
	}
	return sum
}

// keccakF is Keccak-f[1600] (FIPS 202, section 3). Its round constants come from the
// linear feedback register the standard defines.
func keccakF(a *[25]uint64) {
	lfsr := byte(1)
	for range 24 {
		var c [5]uint64
		for x := range 5 {
			c[x] = a[x] ^ a[x+5] ^ a[x+10] ^ a[x+15] ^ a[x+20]
		}
		for x := range 5 {
			d := c[(x+4)%5] ^ bits.RotateLeft64(c[(x+1)%5], 1)
			for y := 0; y < 25; y += 5 {
				a[x+y] ^= d
			}
		}
		x, y, last := 1, 0, a[1]
		for t := range 24 {
			x, y = y, (2*x+3*y)%5
			last, a[x+5*y] = a[x+5*y], bits.RotateLeft64(last, (t+1)*(t+2)/2)
		}
		for y := 0; y < 25; y += 5 {
			row := [5]uint64(a[y : y+5])
			for x := range 5 {
				a[x+y] = row[x] ^ ^row[(x+1)%5]&row[(x+2)%5]
			}
		}
		for j := range 7 {
			if lfsr&1 != 0 {
				a[0] ^= 1 << (1<<j - 1)
			}
			lfsr = lfsr<<1 ^ lfsr>>7*0x71
		}
	}
}
