package ident_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/internal/ident"
)

// The examples are from the standards, registers and public descriptions themselves,
// not from this package's own arithmetic.

func TestPublishedIBANs(t *testing.T) {
	// SWIFT IBAN registry.
	const published = `AD1200012030200359100100 AE070331234567890123456 AL47212110090000000235698741 AT611904300234573201
		AZ21NABZ00000000137010001944 BA391290079401028494 BE68539007547034 BG80BNBG96611020345678 BH67BMAG00001299123456
		BR1800360305000010009795493C1 CH9300762011623852957 CR05015202001026284066
		CY17002001280000001200527600 CZ6508000000192000145399 DE89370400440532013000 DK5000400440116243
		DO28BAGR00000001212453611324 EE382200221020145685 EG380019000500000000263180002 ES9121000418450200051332
		FI2112345600000785 FO6264600001631634 FR1420041010050500013M02606 GB29NWBK60161331926819 GE29NB0000000101904917
		GI75NWBK000000007099453 GL8964710001000206 GR1601101250000000012300695 GT82TRAJ01020000001210029690
		HR1210010051863000160 HU42117730161111101800000000 IE29AIBK93115212345678 IL620108000000099999999
		IQ98NBIQ850123456789012 IS140159260076545510730339 IT60X0542811101000000123456 JO94CBJO0010000000000131000302
		KW81CBKU0000000000001234560101 KZ86125KZT5004100100 LB62099900000001001901229114 LC55HEMM000100010012001200023015
		LI21088100002324013AA LT121000011101001000 LU280019400644750000 LV80BANK0000435195001 MC5811222000010123456789030
		MD24AG000225100013104168 ME25505000012345678951 MK07250120000058984 MR1300020001010000123456753
		MT84MALT011000012345MTLCAST001S MU17BOMM0101101030300200000MUR NL91ABNA0417164300 NO9386011117947
		PK36SCBL0000001123456702 PL61109010140000071219812874 PS92PALS000000000400123456702 PT50000201231234567890154
		QA58DOHB00001234567890ABCDEFG RO49AAAA1B31007593840000 RS35260005601001611379 SA0380000000608010167519
		SC18SSCB11010000000000001497USD SE4550000000058398257466 SI56263300012039086 SK3112000000198742637541
		SM86U0322509800000000270100 SV62CENR00000000000000700025 TL380080012345678910157 TN5910006035183598478831
		TR330006100519786457841326 UA213223130000026007233566001 VA59001123000012345678 VG96VPVG0000012345678901
		XK051212012345678906`
	countries := map[string]bool{}
	for iban := range strings.FieldsSeq(published) {
		if !ident.ValidIBAN([]byte(iban)) {
			t.Errorf("%s is not valid", iban)
		}
		countries[iban[:2]] = true
		for i := range iban {
			wrong := []byte(iban)
			if wrong[i] = '7'; iban[i] == '7' {
				wrong[i] = '8'
			}
			if ident.ValidIBAN(wrong) {
				t.Errorf("%s is valid", wrong)
			}
		}
	}
	for _, c := range ident.IBANCountries() {
		if !countries[c] && c != "ST" && c != "BY" {
			t.Errorf("no example of %s", c)
		}
	}
}

func TestPublishedNumbers(t *testing.T) {
	for kind, examples := range map[ident.Kind]string{
		ident.USSSN:     "219099998 078051120",
		ident.GBNINO:    "AB123456C JG103759A",
		ident.GBNHS:     "9434765919 4010232137",
		ident.DEIDNr:    "86095742719 47036892816 65929970489 57549285017",
		ident.FRNIR:     "255081416802538",
		ident.ESDNI:     "12345678Z X1234567L Z1234567R",
		ident.ITCF:      "RSSMRA85T10A562S MRTMTT91D08F205J",
		ident.NLBSN:     "111222333 123456782 249566758",
		ident.BENRN:     "85073003328 17073003384",
		ident.SEPNR:     "8112289874 198112289874 6408233234",
		ident.NOFNR:     "15108695088",
		ident.FIHETU:    "131052-308T",
		ident.PLPESEL:   "44051401359",
		ident.CHAHV:     "7569217076985",
		ident.BRCPF:     "52998224725 11144477735",
		ident.INAadhaar: "234123412346",
		ident.CASIN:     "130692544",
		ident.CNRIC:     "11010519491231002X 440524188001010014",
	} {
		for number := range strings.FieldsSeq(examples) {
			if !ident.ValidNational(kind, []byte(number)) {
				t.Errorf("%v %s is not valid", kind, number)
			}
			for i := range number {
				if kind == ident.USSSN || kind == ident.GBNINO || number[i] < '0' || number[i] > '9' {
					continue // nothing to check
				}
				wrong := []byte(number)
				wrong[i] = '0' + (wrong[i]-'0'+1)%10
				if ident.ValidNational(kind, wrong) {
					t.Errorf("%v %s is valid", kind, wrong)
				}
			}
		}
	}
	for kind, examples := range map[ident.Kind]string{
		ident.USSSN:   "000123456 666123456 900123456 123003456 123450000 12345678",
		ident.GBNINO:  "QQ123456C BG123456A AB123456E DA123456A",
		ident.DEIDNr:  "02476291358 11111111111",
		ident.BRCPF:   "11111111111 00000000000",
		ident.CASIN:   "046454286",
		ident.CNRIC:   "990105194912310029",
		ident.PLPESEL: "44661401359",
	} {
		for number := range strings.FieldsSeq(examples) {
			if ident.ValidNational(kind, []byte(number)) {
				t.Errorf("%v %s is valid", kind, number)
			}
		}
	}
}

func TestPublishedCardsAndWallets(t *testing.T) {
	for _, card := range []string{"4111111111111111", "378282246310005", "5555555555554444", "6011111111111117", "3530111333300000", "30569309025904", "2223003122003222"} {
		if !ident.ValidCard([]byte(card)) {
			t.Errorf("card %s is not valid", card)
		}
	}
	for _, card := range []string{"4111111111111112", "9999999999999995", "411111111111111", "1234567812345670"} {
		if ident.ValidCard([]byte(card)) {
			t.Errorf("card %s is valid", card)
		}
	}
	for _, a := range []string{
		"1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
		"bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4",
		"bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
	} {
		if !ident.ValidBitcoin([]byte(a)) {
			t.Errorf("%s is not valid", a)
		}
		wrong := []byte(a)
		if wrong[10]++; ident.ValidBitcoin(wrong) {
			t.Errorf("%s is valid", wrong)
		}
	}
	// EIP-55.
	for _, a := range []string{
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
		"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB", "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
		"0x52908400098527886E0F7030069857D2E4169EE7", "0xde709f2102306220921060314715629080e2fb77",
	} {
		if !ident.ValidEthereum([]byte(a)) {
			t.Errorf("%s is not valid", a)
		}
	}
	if ident.ValidEthereum([]byte("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed")) {
		t.Error("an address in the wrong case is valid")
	}
}

func TestPhones(t *testing.T) {
	for _, n := range []string{"12125550123", "442079460123", "4930123456", "33612345678", "390612345678", "4903012345678", "818012345678"} {
		if !ident.ValidPhone([]byte(n)) {
			t.Errorf("+%s is not valid", n)
		}
	}
	for _, n := range []string{"1", "11125550123", "121255501234", "999123456789", "33612", "0301234567", "336123456789012"} {
		if ident.ValidPhone([]byte(n)) {
			t.Errorf("+%s is valid", n)
		}
	}
}

// TestIssued holds that what is issued has right check digits, lies in the range it is
// known by again, and is no number that is valid in life, where that range is apart.
func TestIssued(t *testing.T) {
	likes := map[ident.Kind]string{ident.ESDNI: "12345678Z X1234567L", ident.SEPNR: "8112289874 198112289874", ident.FIHETU: "131052-308T 131052A308T"}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, kind := range ident.Kinds() {
		if !kind.National() {
			continue
		}
		like := strings.Fields(likes[kind])
		if like == nil {
			like = []string{""}
		}
		for range 2000 {
			for _, l := range like {
				n := ident.IssueNational(kind, nil, []byte(l), rng.IntN)
				if !ident.ReservedNational(kind, n) {
					t.Fatalf("%v %s is not in its range", kind, n)
				}
			}
		}
	}
	for _, country := range ident.IBANCountries() {
		for range 50 {
			real := ident.MakeIBAN(nil, country, rng.IntN)
			if !ident.ValidIBAN(real) || ident.ReservedIBAN(real) {
				t.Fatalf("%s: valid %t, reserved %t", real, ident.ValidIBAN(real), ident.ReservedIBAN(real))
			}
			n := ident.IssueIBAN(nil, real, rng.IntN)
			if !ident.ValidIBAN(n) || !ident.ReservedIBAN(n) {
				t.Fatalf("%s: valid %t, reserved %t", n, ident.ValidIBAN(n), ident.ReservedIBAN(n))
			}
		}
	}
	for _, like := range []string{"1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"} {
		for range 500 {
			n := ident.MakeBitcoin(nil, []byte(like), true, rng.IntN)
			if !ident.ValidBitcoin(n) || !ident.ReservedBitcoin(n) || n[0] != like[0] {
				t.Fatalf("%s: valid %t, reserved %t", n, ident.ValidBitcoin(n), ident.ReservedBitcoin(n))
			}
			n = ident.MakeBitcoin(nil, []byte(like), false, rng.IntN)
			if !ident.ValidBitcoin(n) || ident.ReservedBitcoin(n) {
				t.Fatalf("%s: valid %t, reserved %t", n, ident.ValidBitcoin(n), ident.ReservedBitcoin(n))
			}
		}
	}
	for range 500 {
		n := ident.MakeEthereum(nil, true, rng.IntN)
		if !ident.ValidEthereum(n) || !ident.ReservedEthereum(n) {
			t.Fatalf("%s", n)
		}
	}
}

func TestIssuedPhones(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := []byte(rapid.StringMatching(`[0-9]{6,15}`).Draw(t, "digits"))
		plus := rapid.Bool().Draw(t, "plus")
		n := ident.IssuePhone(nil, d, plus, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "digit") })
		if len(n) != len(d) {
			t.Fatalf("%s became %s", d, n)
		}
		if !ident.ReservedPhone(n, plus) {
			t.Fatalf("%s became %s, which is not known again", d, n)
		}
		if plus && ident.ValidPhone(d) && string(n[:1]) != string(d[:1]) {
			t.Fatalf("%s became %s, of another country", d, n)
		}
	})
}

func TestCanonicalPhone(t *testing.T) {
	for _, same := range [][]string{
		{"+12124567890", "2124567890", "12124567890", "0012124567890"},
		{"+493012345678", "+4903012345678", "00493012345678"},
	} {
		want := ""
		for i, n := range same {
			d, plus := strings.CutPrefix(n, "+")
			got := string(ident.CanonicalPhone(nil, []byte(d), plus))
			if i == 0 {
				want = got
			} else if got != want {
				t.Errorf("%s is %s, %s is %s", same[0], want, n, got)
			}
		}
	}
}

func FuzzValid(f *testing.F) {
	for _, s := range []string{"", "DE89370400440532013000", "131052-308T", "RSSMRA85T10A562S", "4111111111111111", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "4930123456", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, k := range ident.Kinds() {
			ident.ValidNational(k, b)
			ident.ReservedNational(k, b)
		}
		c, ok := ident.Compact(nil, b)
		if again, fine := ident.Compact(nil, c); ok && (!fine || string(again) != string(c)) {
			t.Errorf("%q is compact as %q", c, again)
		}
		if ident.ValidIBAN(b) {
			ident.ReservedIBAN(b)
		}
		if ident.ValidCard(b) {
			ident.ReservedCard(b)
		}
		if ident.ValidBitcoin(b) {
			ident.ReservedBitcoin(b)
		}
		if ident.ValidEthereum(b) {
			ident.ReservedEthereum(b)
		}
		for _, c := range b {
			if c < '0' || c > '9' {
				return
			}
		}
		ident.ValidPhone(b)
		for _, plus := range []bool{true, false} {
			ident.ReservedPhone(b, plus)
			ident.CanonicalPhone(nil, b, plus)
		}
	})
}
