// Package steps is what the drivers of the Go clients share: they read steps from stdin, one a
// line, and answer each with a line of JSON. The first surprise ends them with exit code 1.
package steps

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// Long enough for an emulated host; the users of these clients allowed a second.
	callTimeout   = 60 * time.Second
	answerTimeout = 30 * time.Second
	pingInterval  = 10 * time.Millisecond
)

// A pod's config with all its devices is some KiB.
const stepBytesMax = 1 << 20

// Answer is what came of a step.
type Answer struct {
	Step string `json:"step"`
	// 0 if there was no reply.
	Status int    `json:"status"`
	State  string `json:"state,omitempty"`
	// As the client decoded it.
	Config any `json:"config,omitempty"`
	// Of a device that was added to a running VM.
	Device any    `json:"device,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Take takes the step `name`; it may write to the answer.
type Take func(ctx context.Context, name, argument string, answer *Answer) (*http.Response, error)

// Run takes the steps of stdin until it ends, and ends the process.
func Run(take Take) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, stepBytesMax)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		answer := one(take, lines.Text())
		if err := out.Encode(answer); err != nil || answer.Error != "" {
			os.Exit(1)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "Cannot read the steps:", err)
		os.Exit(1)
	}
}

func one(take Take, line string) Answer {
	name, argument, _ := strings.Cut(line, " ")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	result := Answer{Step: name}
	response, err := take(ctx, name, argument, &result)
	if response != nil {
		result.Status = response.StatusCode
	}
	if err == nil && result.Status != http.StatusOK && result.Status != http.StatusNoContent {
		err = fmt.Errorf("status %d is neither 200 nor 204", result.Status)
	}
	// The generated clients keep the reply's body in errors of their own.
	if refused, ok := err.(interface{ Body() []byte }); ok {
		err = fmt.Errorf("%w: %s", err, refused.Body())
	}
	if err != nil {
		result.Error = err.Error()
	}
	return result
}

// OverUnix is one client for all calls, so that they share a connection that is kept alive.
func OverUnix(socketPath string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socketPath)
		},
	}}
}

// UntilListening calls `ping` until it gets a reply, as a client that has just started the VMM.
// It returns the version that was told.
func UntilListening(ping func() (version string, response *http.Response, err error)) (
	*http.Response, error,
) {
	for deadline := time.Now().Add(answerTimeout); ; time.Sleep(pingInterval) {
		version, response, err := ping()
		if response == nil && time.Now().Before(deadline) {
			continue // nobody listens there yet
		}
		if err == nil && version == "" {
			err = fmt.Errorf("the ping's version is empty")
		}
		return response, err
	}
}

// Decode is strict: a field that the client's model lacks is a mistake of the test.
func Decode(text string, into any) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
