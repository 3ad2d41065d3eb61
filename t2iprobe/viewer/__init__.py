"""What ``t2iprobe view`` serves: run folders and an explorer, in the browser; see :mod:`t2iprobe.viewer.app`."""
