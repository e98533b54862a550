package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sallyport/internal/config"
)

// maxAnswer is what is read of an answer, in bytes: enough for the connection to be used
// again.
const maxAnswer = 4 << 10

// webhook posts messages as Standard Webhooks 1.0.0 has it.
type webhook struct {
	config.Webhook
	client *http.Client
	secret func(string) (string, error)
	now    func() time.Time
}

func newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
}

// WebhookName is what an endpoint is called: its host, and a digest that tells it from
// others there. The rest of a URL may be a secret.
func WebhookName(endpoint string) string {
	host := "?"
	if u, err := url.Parse(endpoint); err == nil {
		host = u.Host
	}
	sum := sha256.Sum256([]byte(endpoint))
	return "webhook " + host + " " + hex.EncodeToString(sum[:4])
}

const secretPrefix = "whsec_"

// signingKeys are what a reference leads to: one key, or several while one replaces
// another.
func signingKeys(ref string, secret func(string) (string, error)) ([][]byte, error) {
	text, err := secret(ref)
	if err != nil {
		return nil, err
	}
	var keys [][]byte
	for word := range strings.FieldsSeq(text) {
		encoded, ok := strings.CutPrefix(word, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < 24 || len(key) > 64 {
			return nil, fmt.Errorf("the secret of %s has to be %s and 24 to 64 bytes in base64: make one with: openssl rand -base64 32", ref, secretPrefix)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// sign is the value of webhook-signature: one signature a key.
func sign(keys [][]byte, id, timestamp string, body []byte) string {
	signatures := make([]string, len(keys))
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.", id, timestamp)
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signatures, " ")
}

func (w *webhook) send(ctx context.Context, m *message) error {
	keys, err := signingKeys(w.Secret, w.secret)
	if err != nil {
		return err
	}
	body, err := m.json()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	timestamp := strconv.FormatInt(w.now().Unix(), 10) // of this try: old ones are refused
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {"sallyport"},
		"Webhook-Id": {m.notice.ID}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {sign(keys, m.notice.ID, timestamp, body)},
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err // without the URL
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // what it says does not matter
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusGone:
		return errGone
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("it answers %d, and redirects are not followed: configure where it leads", resp.StatusCode)
	}
	return fmt.Errorf("it answers %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}
