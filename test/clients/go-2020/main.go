// Command go-2020 drives a VMM through the Go client that is generated from the API document of
// March 2020. It reads steps from stdin, one a line, and answers each with a line of JSON. The
// first surprise ends it with exit code 1.
//
// Usage: go-2020 SOCKET
//
//	ping                 waits for the VMM, as a client that has just started it
//	create CONFIG        vm.create; CONFIG is JSON of the client's model
//	create-every CONFIG  the same, and CONFIG must set every field that the model has
//	info STATE           vm.info; the config must be the one that was created
//	boot, pause, resume, reboot, shutdown, delete, vmm.shutdown
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	openapi "go-2020/client"
)

const (
	// Long enough for an emulated host; the users of this client allowed a second.
	callTimeout   = 60 * time.Second
	answerTimeout = 30 * time.Second
	pingInterval  = 10 * time.Millisecond
)

// A pod's config with all its devices is some KiB.
const stepBytesMax = 1 << 20

type answer struct {
	Step   string `json:"step"`
	Status int    `json:"status"`
	State  string `json:"state,omitempty"`
	Error  string `json:"error,omitempty"`
}

type driver struct {
	api     *openapi.DefaultApiService
	created openapi.VmConfig
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "Usage: go-2020 SOCKET < STEPS")
		os.Exit(2)
	}
	driver := driver{api: connectTo(os.Args[1])}
	steps := bufio.NewScanner(os.Stdin)
	steps.Buffer(nil, stepBytesMax)
	out := json.NewEncoder(os.Stdout)
	for steps.Scan() {
		answer := driver.take(steps.Text())
		if err := out.Encode(answer); err != nil || answer.Error != "" {
			os.Exit(1)
		}
	}
	if err := steps.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "Cannot read the steps:", err)
		os.Exit(1)
	}
}

// One client for all calls, so that they share a connection that is kept alive.
func connectTo(socketPath string) *openapi.DefaultApiService {
	config := openapi.NewConfiguration()
	config.HTTPClient = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socketPath)
		},
	}}
	return openapi.NewAPIClient(config).DefaultApi
}

func (d *driver) take(step string) answer {
	name, argument, _ := strings.Cut(step, " ")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	result := answer{Step: name}
	response, err := d.call(ctx, name, argument, &result)
	if response != nil {
		result.Status = response.StatusCode
	}
	if err == nil && result.Status != http.StatusOK && result.Status != http.StatusNoContent {
		err = fmt.Errorf("status %d is neither 200 nor 204", result.Status)
	}
	if refused, ok := err.(openapi.GenericOpenAPIError); ok {
		err = fmt.Errorf("%w: %s", err, refused.Body())
	}
	if err != nil {
		result.Error = err.Error()
	}
	return result
}

func (d *driver) call(
	ctx context.Context, name, argument string, result *answer,
) (*http.Response, error) {
	switch name {
	case "ping":
		return d.ping(ctx)
	case "create", "create-every":
		return d.create(ctx, argument, name == "create-every")
	case "info":
		return d.info(ctx, argument, result)
	case "boot":
		return d.api.BootVM(ctx)
	case "pause":
		return d.api.PauseVM(ctx)
	case "resume":
		return d.api.ResumeVM(ctx)
	case "reboot":
		return d.api.RebootVM(ctx)
	case "shutdown":
		return d.api.ShutdownVM(ctx)
	case "delete":
		return d.api.DeleteVM(ctx)
	case "vmm.shutdown":
		return d.api.ShutdownVMM(ctx)
	}
	return nil, fmt.Errorf("there is no step %q", name)
}

func (d *driver) ping(ctx context.Context) (*http.Response, error) {
	for deadline := time.Now().Add(answerTimeout); ; time.Sleep(pingInterval) {
		pong, response, err := d.api.VmmPingGet(ctx)
		if response == nil && time.Now().Before(deadline) {
			continue // nobody listens there yet
		}
		if err == nil && pong.Version == "" {
			err = fmt.Errorf("the ping's version is empty")
		}
		return response, err
	}
}

func (d *driver) create(ctx context.Context, text string, every bool) (*http.Response, error) {
	var config openapi.VmConfig
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return nil, err
	}
	if unset := unsetFields("config", reflect.ValueOf(config)); every && len(unset) > 0 {
		return nil, fmt.Errorf("not set: %s", strings.Join(unset, ", "))
	}
	d.created = config
	return d.api.CreateVM(ctx, config)
}

func (d *driver) info(ctx context.Context, state string, result *answer) (*http.Response, error) {
	info, response, err := d.api.VmInfoGet(ctx)
	result.State = info.State
	if err != nil {
		return response, err
	}
	if info.State != state {
		return response, fmt.Errorf("the state is %q, not %q", info.State, state)
	}
	if !reflect.DeepEqual(info.Config, d.created) {
		return response, fmt.Errorf("created was %+v, but vm.info has %+v", d.created, info.Config)
	}
	return response, nil
}

// The paths of the fields that have their type's zero value, which the client would not send, in
// all of the values; in a list, it is enough that one element sets a field.
func unsetFields(path string, values ...reflect.Value) []string {
	var set []reflect.Value
	for _, value := range values {
		if !value.IsZero() {
			set = append(set, value)
		}
	}
	if len(set) == 0 {
		return []string{path}
	}
	var unset []string
	switch kind := set[0].Type(); kind.Kind() {
	case reflect.Struct:
		for i := 0; i < kind.NumField(); i++ {
			var fields []reflect.Value
			for _, value := range set {
				fields = append(fields, value.Field(i))
			}
			unset = append(unset, unsetFields(path+"."+kind.Field(i).Name, fields...)...)
		}
	case reflect.Slice:
		var elements []reflect.Value
		for _, value := range set {
			for i := 0; i < value.Len(); i++ {
				elements = append(elements, value.Index(i))
			}
		}
		unset = unsetFields(path+"[]", elements...)
	}
	return unset
}
