package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	openapi "driver/client"
	"driver/steps"
)

const (
	ioctlSetInterface   = 0x400454ca // TUNSETIFF
	interfaceIsTap      = 0x0002
	interfaceNoHeader   = 0x1000
	interfaceManyQueues = 0x0100
	interfaceVnetHeader = 0x4000
)

// Kata's runtime opens the interface in the pod's namespace and hands the files over: the client's
// model and all that its constructor sets, on a connection of its own, as one message.
func (d *driver) addNet(argument string, answer *steps.Answer) (*http.Response, error) {
	words := strings.SplitN(argument, " ", 3)
	count, err := strconv.Atoi(words[0])
	if err != nil || len(words) != 3 {
		return nil, fmt.Errorf("not a number of files, a tap and a config: %q", argument)
	}
	files, err := openTap(words[1], count)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, file := range files {
			syscall.Close(file)
		}
	}()
	config := openapi.NewNetConfig()
	config.SetNumQueues(int32(2 * count))
	if err := steps.Decode(words[2], config); err != nil {
		return nil, err
	}
	return d.sendWithFiles("vm.add-net", config, files, answer)
}

func openTap(name string, count int) (files []int, err error) {
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:15], name)
	request.flags = interfaceIsTap | interfaceNoHeader | interfaceVnetHeader
	if count > 1 {
		request.flags |= interfaceManyQueues
	}
	for i := 0; i < count; i++ {
		file, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return files, err
		}
		files = append(files, file)
		_, _, errno := syscall.Syscall(
			syscall.SYS_IOCTL, uintptr(file), ioctlSetInterface, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return files, os.NewSyscallError("TUNSETIFF "+name, errno)
		}
	}
	return files, nil
}

func (d *driver) sendWithFiles(
	endpoint string, body any, files []int, answer *steps.Answer,
) (*http.Response, error) {
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.socketPath, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(
		http.MethodPut, "http://localhost/api/v1/"+endpoint, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Content-Length", strconv.Itoa(len(text)))
	wire, err := httputil.DumpRequest(request, true)
	if err != nil {
		return nil, err
	}
	if _, _, err := connection.WriteMsgUnix(wire, syscall.UnixRights(files...), nil); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return response, nil
	}
	var device openapi.PciDeviceInfo
	err = json.NewDecoder(response.Body).Decode(&device)
	answer.Device = device
	return response, err
}
