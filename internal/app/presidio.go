package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport"
	"sallyport/internal/detect"
	"sallyport/internal/ident"
	"sallyport/internal/scrub"
)

// analyzer asks a Presidio analyzer what it finds in texts (POST /analyze, as its
// OpenAPI document of November 2026 has it: texts, their language, and findings with
// places in characters).
type analyzer struct {
	url      string
	language string
	client   *http.Client
}

// Bounds of an exchange with an analyzer.
const (
	analyzerTime   = 2 * time.Minute
	analyzerAnswer = 16 << 20 // bytes
)

// entities are the kinds of what Presidio knows. What is not here and is not among
// passedOver becomes an identifier.
var entities = map[string]ident.Kind{
	"PERSON": ident.Name, "LOCATION": ident.Address, "EMAIL_ADDRESS": ident.Email, "PHONE_NUMBER": ident.Phone, "CREDIT_CARD": ident.Card,
	"IBAN_CODE": ident.IBAN, "IP_ADDRESS": ident.IPv4, "CRYPTO": ident.Bitcoin, "US_SSN": ident.USSSN, "UK_NHS": ident.GBNHS, "UK_NINO": ident.GBNINO,
	"DE_TAX_ID": ident.DEIDNr, "ES_NIF": ident.ESDNI, "ES_NIE": ident.ESDNI, "IT_FISCAL_CODE": ident.ITCF, "SE_PERSONNUMMER": ident.SEPNR, "PL_PESEL": ident.PLPESEL,
	"FI_PERSONAL_IDENTITY_CODE": ident.FIHETU, "IN_AADHAAR": ident.INAadhaar, "CA_SIN": ident.CASIN,
}

// passedOver are findings that identify nobody by themselves.
var passedOver = map[string]bool{"DATE_TIME": true, "URL": true, "NRP": true}

func newAnalyzer(address, language string) (*analyzer, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, sallyport.Refuse(sallyport.BadRequest, "--analyzer is no http or https address", "as in --analyzer http://127.0.0.1:5002")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, sallyport.Refuse(sallyport.BadRequest, "--analyzer would be sent unscrubbed texts over plain http to another machine", "run it on this machine, or use https")
	}
	if !strings.HasSuffix(u.Path, "/analyze") {
		u = u.JoinPath("analyze")
	}
	return &analyzer{url: u.String(), language: language, client: &http.Client{
		Timeout: analyzerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it sends elsewhere, which is not followed")
		},
	}}, nil
}

// finder is what a scrubber asks.
func (a *analyzer) finder(ctx context.Context) scrub.Finder {
	return func(texts [][]byte) ([][]detect.Finding, error) {
		out, err := a.ask(ctx, texts)
		if err != nil {
			return nil, fmt.Errorf("analyzer at %s: %w", a.url, err)
		}
		return out, nil
	}
}

func (a *analyzer) ask(ctx context.Context, texts [][]byte) ([][]detect.Finding, error) {
	question := struct {
		Text     []string `json:"text"`
		Language string   `json:"language"`
	}{Language: a.language}
	for _, t := range texts {
		question.Text = append(question.Text, string(t))
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err // which says the address once more
		}
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, analyzerAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(raw) > analyzerAnswer:
		return nil, fmt.Errorf("an answer of more than %d MiB", analyzerAnswer>>20)
	case resp.StatusCode != http.StatusOK:
		// What it says may repeat the texts.
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	var answer [][]struct {
		Entity string `json:"entity_type"`
		Start  int    `json:"start"`
		End    int    `json:"end"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, errors.New("the answer is no list of findings for each text")
	}
	if len(answer) != len(texts) {
		return nil, fmt.Errorf("an answer about %d texts of %d", len(answer), len(texts))
	}
	out := make([][]detect.Finding, len(texts))
	for i, findings := range answer {
		for _, f := range findings {
			if passedOver[f.Entity] {
				continue
			}
			start, end, ok := inBytes(texts[i], f.Start, f.End)
			if !ok {
				return nil, errors.New("it found something outside of the text")
			}
			kind := entities[f.Entity]
			switch {
			case kind == 0:
				kind = ident.ID
			case kind == ident.IPv4 && bytes.IndexByte(texts[i][start:end], ':') >= 0:
				kind = ident.IPv6
			}
			out[i] = append(out[i], detect.Finding{Kind: kind, Start: start, End: end, Confidence: detect.Likely})
		}
	}
	return out, nil
}

// inBytes turns places in characters into places in bytes.
func inBytes(text []byte, from, to int) (start, end int, ok bool) {
	if from < 0 || to < from {
		return 0, 0, false
	}
	at := 0
	for n := 0; n < to; n++ {
		if n == from {
			start = at
		}
		if at >= len(text) {
			return 0, 0, false
		}
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	if from == to {
		start = at
	}
	return start, at, true
}
