// Makes ../plain_go.json: the plain forms as Go's own libraries seal them, for the vectors' readers to open.
//
// It needs golang.org/x/crypto. With Debian's golang-go and golang-golang-x-crypto-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run main.go > ../plain_go.json
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/crypto/chacha20poly1305"
)

type vector struct {
	Name     string            `json:"name"`
	Comment  string            `json:"comment"`
	Cipher   string            `json:"cipher"`
	Key      string            `json:"key"`
	Sealed   string            `json:"sealed"`
	Expected map[string]string `json:"expected"`
}

type file struct {
	Operation string   `json:"operation"`
	Vectors   []vector `json:"vectors"`
}

// label gives fixed bytes, at most 32: nothing here is secret.
func label(text string, n int) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:n]
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func run() error {
	forms := []struct {
		prefix, name string
		aead         func([]byte) (cipher.AEAD, error)
	}{
		{"xchacha", "XChaCha20-Poly1305", chacha20poly1305.NewX},
		{"aes", "AES-256-GCM", newGCM},
	}
	out := file{Operation: "open the plain form"}
	for _, form := range forms {
		key := label("go "+form.prefix+" key", 32)
		aead, err := form.aead(key)
		if err != nil {
			return err
		}
		add := func(name, comment string, sealed []byte, expected map[string]string) {
			out.Vectors = append(out.Vectors, vector{
				form.prefix + "_" + name, comment, form.name, hex.EncodeToString(key), hex.EncodeToString(sealed), expected,
			})
		}
		for _, n := range []int{0, 1, 15, 16, 17, 63, 64, 65, 300} {
			name := fmt.Sprintf("%d_bytes", n)
			plaintext := bytes.Repeat([]byte("sealed by Go; "), n/14+1)[:n]
			nonce := label("go "+form.prefix+" nonce "+name, aead.NonceSize())
			// As programs do: the nonce as dst, so that the ciphertext follows it.
			sealed := aead.Seal(nonce, nonce, plaintext, nil)
			add(name, "Sealed by Go.", sealed, map[string]string{"plaintext": hex.EncodeToString(plaintext)})
		}
		nonce := label("go "+form.prefix+" nonce aad", aead.NonceSize())
		sealed := aead.Seal(nonce, nonce, []byte("five!"), []byte("aad"))
		add("with_aad", "Sealed by Go with additional data, which the plain form has not.", sealed,
			map[string]string{"error": "rejected"})
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	return encoder.Encode(out)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
